package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pipeproc/pgstore/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// run runs a server until stop is called, or the test ends.
func run(t *testing.T, c Config) (s *Service, stop func()) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("after the stop: ", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal("it ended: ", err)
	}
	return s, stop
}

// TestInProcess runs a server as tests of other packages do.
func TestInProcess(t *testing.T) {
	c := DefaultConfig()
	c.Listen = []string{"127.0.0.1:0"}
	c.DatabaseURL, c.UnsafeDurability, c.Logger = pgtest.Database(t), true, pgtest.Logger()
	c.GC = true
	var out strings.Builder
	c.Out = &out
	s, stop := run(t, c)
	url := s.URLs()[0]
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/readyz", "/metrics", "/openapi.yaml"} {
		res, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if want := "pipeproc listening on " + url + "\n"; out.String() != want {
		t.Errorf("it told %q, want %q", out.String(), want)
	}
	stop()
	if _, err := client.Get(url + "/readyz"); err == nil {
		t.Error("it still serves")
	}
}

// TestStopDuringStart holds that a start that is cut short is a clean stop.
func TestStopDuringStart(t *testing.T) {
	c := DefaultConfig()
	c.DatabaseURL, c.Logger = "postgres://nobody@127.0.0.1:1/none", pgtest.Logger()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-s.Ready():
		t.Error("it is ready")
	default:
	}
}

// TestLoops holds that a loop that ends by itself ends the server, and its neighbors are ended and waited for.
func TestLoops(t *testing.T) {
	boom := errors.New("boom")
	steady := func(ctx context.Context) error { <-ctx.Done(); return nil }
	tests := map[string]struct {
		loop  func(context.Context) error
		cause func(error) bool
	}{
		"error":   {func(context.Context) error { return boom }, func(err error) bool { return errors.Is(err, boom) }},
		"silence": {func(context.Context) error { return nil }, func(err error) bool { return err != nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			end := start(stop, steady, tt.loop)
			<-ctx.Done()
			err := end()
			if !tt.cause(err) || !errors.Is(err, context.Cause(ctx)) {
				t.Errorf("end answers %v, the cause is %v", err, context.Cause(ctx))
			}
			also(&err, func() error { return context.Cause(ctx) })
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("told twice: %v", err)
			}
		})
	}
	_, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	if err := start(stop, steady, steady)(); err != nil {
		t.Errorf("an orderly end answers %v", err)
	}
}

// TestDrain holds that a request in flight is answered although the server stops meanwhile.
func TestDrain(t *testing.T) {
	c := DefaultConfig()
	c.Listen, c.Logger = []string{"127.0.0.1:0"}, pgtest.Logger()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := s.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun, cause := make(chan struct{}), make(chan error, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		cause <- context.Cause(r.Context())
		w.WriteHeader(http.StatusTeapot)
	}
	streams := make(chan struct{})
	end := s.serve(func(err error) { t.Error("it stops by itself: ", err) }, http.HandlerFunc(handler),
		func() { close(streams) }, listeners)
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	status := make(chan string, 1)
	go func() {
		res, err := client.Get(listeners[0].url)
		if err != nil {
			status <- err.Error()
			return
		}
		res.Body.Close()
		status <- res.Status
	}()
	<-begun
	end()
	select {
	case <-streams:
	default:
		t.Error("streams are not ended")
	}
	if got := <-status; !strings.HasPrefix(got, "418") {
		t.Errorf("the request was answered %q", got)
	}
	if err := <-cause; !errors.Is(err, errStopping) {
		t.Errorf("its context ended because of %v", err)
	}
}

package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

// fake is a topic of n logs, each with a body of size bytes or a little more. wrong, when given, may fail the reading of a
// run.
type fake struct {
	n     int64
	size  int
	wrong func(ctx, api.Run) error
	reads *[]api.Run
}

func (f fake) body(seq int64) string {
	return fmt.Sprintf(`{"seq":%d,"x":"%s"}`, seq, strings.Repeat("x", f.size))
}

func (f fake) line(seq int64) string {
	return fmt.Sprintf(`{"id":"5-%d","body":%s}`, seq, f.body(seq)) + "\n"
}

// lines are all of them.
func (f fake) lines(reverse bool) string {
	var b strings.Builder
	for i := range f.n {
		if reverse {
			i = f.n - 1 - i
		}
		b.WriteString(f.line(i))
	}
	return b.String()
}

func (f fake) logs() logs {
	return logs{
		rng: func(string, api.RangeQuery) (api.Page, error) { return api.Page{}, nil },
		resolve: func(_ string, q api.RangeQuery) (api.Run, error) {
			run := api.Run{TopicID: 1, To: f.n, Reverse: q.Reverse}
			if q.Limit > 0 {
				run = run.First(int64(q.Limit))
			}
			return run, nil
		},
		read: func(ctx context.Context, run api.Run, size int, visit func(api.ID, []byte)) error {
			if f.reads != nil {
				*f.reads = append(*f.reads, run)
			}
			if f.wrong != nil {
				if err := f.wrong(ctx, run); err != nil {
					return err
				}
			}
			for bytes := 0; run.Len() > 0 && bytes < size; {
				seq := run.From
				if run.Reverse {
					seq = run.To - 1
				}
				body := []byte(f.body(seq))
				visit(id(5, seq), body)
				bytes += len(body)
				clear(body) // it is the store's again
				run = run.After(seq)
			}
			return nil
		},
	}
}

func (f fake) server() *Server {
	return New(Config{Logs: f.logs(), Streams: streams(nil)})
}

const wantsLines = "Accept: " + asLines

func TestLines(t *testing.T) {
	for _, f := range []fake{{n: 0}, {n: 1}, {n: 3, size: 10}, {n: 50_000, size: 1}, {n: 5_000, size: 2_000}, {n: 5, size: 1 << 20}} {
		for _, reverse := range []bool{false, true} {
			path := "/v1/topics/t/logs"
			if reverse {
				path += "?direction=reverse"
			}
			a := call(t, f.server(), "GET", path, "", wantsLines)
			if a.status != 200 || a.header.Get("Content-Type") != asLines {
				t.Errorf("%d logs: %d %v", f.n, a.status, a.header)
			}
			if want := f.lines(reverse); a.body != want {
				t.Errorf("%d logs of %d bytes, reverse %t: %d bytes, want %d", f.n, f.size, reverse, len(a.body), len(want))
			}
		}
	}
	f := fake{n: 10}
	if a := call(t, f.server(), "GET", "/v1/topics/t/logs?limit=2&direction=reverse", "", wantsLines); a.body != f.line(9)+f.line(8) {
		t.Errorf("two of them: %s", a.body)
	}
}

// Pages grow to a megabyte, whatever the size of the logs is: the number asked for follows what was seen.
func TestLinesArePaged(t *testing.T) {
	for _, f := range []fake{{n: 60_000}, {n: 30_000, size: 100}, {n: 100, size: 100 << 10}} {
		var reads []api.Run
		f.reads = &reads
		synctest.Test(t, func(t *testing.T) { // where no page takes any time, so that all of them grow
			call(t, f.server(), "GET", "/v1/topics/t/logs", "", wantsLines)
		})
		bytes := f.n * int64(len(f.body(1000)))
		if most := 8 + 3*bytes/mostPage; int64(len(reads)) > most {
			t.Errorf("%d logs of %d bytes took %d reads, want at most %d", f.n, f.size, len(reads), most)
		}
		for _, run := range reads[1:] {
			if n := run.Len(); n > mostPage/minLine+1 || n*int64(len(f.body(1000))) > 2*mostPage {
				t.Errorf("%d logs of %d bytes: %d asked for at once", f.n, f.size, n)
			}
		}
	}
}

// Before the first byte, what is wrong is a problem.
func TestLinesRefused(t *testing.T) {
	collected := api.Errorf(api.CodeCollected, "gone")
	for _, method := range []string{"GET", "HEAD"} {
		s := New(Config{Streams: streams(nil), Logs: logs{resolve: func(string, api.RangeQuery) (api.Run, error) { return api.Run{}, collected }}})
		if a := call(t, s, method, "/v1/topics/t/logs", "", wantsLines); a.status != 410 {
			t.Errorf("%s: %d", method, a.status)
		}
	}
	for _, c := range []struct {
		err    error
		status int
		reads  int
	}{
		{collected, 410, maxResolved}, // GC was faster, and might have been so by chance
		{api.Errorf(api.CodeInvalidTopic, "gone"), 404, 1},
		{api.Errorf(api.CodeUnavailable, "gone"), 503, 1},
		{errors.New("a fault"), 500, 1},
	} {
		f := fake{n: 3}
		reads := 0
		f.wrong = func(ctx, api.Run) error { reads++; return c.err }
		a := call(t, f.server(), "GET", "/v1/topics/t/logs", "", wantsLines)
		a.wantsProblem(t, c.status, api.CodeOf(c.err))
		if reads != c.reads {
			t.Errorf("%v: %d reads", c.err, reads)
		}
	}
	f := fake{n: 3}
	tries := 0
	f.wrong = func(ctx, api.Run) error {
		if tries++; tries < 3 {
			return collected
		}
		return nil
	}
	if a := call(t, f.server(), "GET", "/v1/topics/t/logs", "", wantsLines); a.body != f.lines(false) {
		t.Errorf("after GC: %d %s", a.status, a.body)
	}
	// A HEAD reads nothing.
	f.wrong = func(ctx, api.Run) error { return errors.New("a fault") }
	if a := call(t, f.server(), "HEAD", "/v1/topics/t/logs", "", wantsLines); a.status != 200 || a.header.Get("Content-Type") != asLines {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
}

// Where a range cannot go on, the connection breaks, and what came before is there.
func TestLinesBreakOff(t *testing.T) {
	for _, c := range []struct {
		err    error
		status string
	}{
		{api.Errorf(api.CodeCollected, "gone"), "410"},
		{api.Errorf(api.CodeInvalidTopic, "gone"), "404"},
		{api.Errorf(api.CodeUnavailable, "gone"), "503"},
		{errors.New("a fault"), "500"},
	} {
		f := fake{n: 1000, size: 1000}
		f.wrong = func(_ ctx, run api.Run) error {
			if run.From > 500 {
				return c.err
			}
			return nil
		}
		s := f.server()
		server := serve(t, s)
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v1/topics/t/logs", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", asLines)
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v: %d %v", c.err, resp.StatusCode, err)
		}
		if n := strings.Count(string(got), "\n"); n < 500 || n > 999 || !strings.HasPrefix(f.lines(false), string(got)) {
			t.Errorf("%v: %d lines came", c.err, n)
		}
		server.Close()
		if n := counted(t, s, "/v1/topics/{topic}/logs", "GET", c.status); n != 1 {
			t.Errorf("%v: counted %v", c.err, n)
		}
		if n := metric(t, s.Metrics, "pipeproc_http_problems_total", map[string]string{"code": string(api.CodeOf(c.err))}); n != 1 {
			t.Errorf("%v: counted %v problems", c.err, n)
		}
	}
}

// A panic while a page is written waits for that, and cuts the connection.
func TestLinesPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake{n: 10_000, size: 100}
		f.wrong = func(_ ctx, run api.Run) error {
			if run.From > 0 {
				panic("a fault")
			}
			return nil
		}
		w := &slowRecorder{ResponseRecorder: httptest.NewRecorder()}
		defer func() {
			if got := recover(); got != http.ErrAbortHandler || w.writing.Load() || w.Body.Len() < firstPage {
				t.Errorf("panic %v, writing %t, %d bytes", got, w.writing.Load(), w.Body.Len())
			}
		}()
		f.server().ServeHTTP(w, request("GET", "/v1/topics/t/logs", "", wantsLines))
	})
}

// slowRecorder takes a second for each write.
type slowRecorder struct {
	*httptest.ResponseRecorder
	writing atomic.Bool
}

func (w *slowRecorder) Write(b []byte) (int, error) {
	w.writing.Store(true)
	defer w.writing.Store(false)
	time.Sleep(time.Second) // of the bubble
	return w.ResponseRecorder.Write(b)
}

// A client that reads slowly gets all, and is asked for little at a time; one that stalls is cut off.
func TestLinesToASlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads []api.Run
		f := fake{n: 3_000, size: 1_000, reads: &reads}
		s := f.server()
		conn := inMemory(t, s)
		fmt.Fprintf(conn, "GET /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", wantsLines)
		in := bufio.NewReaderSize(conn, 16)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var got bytes.Buffer
		for range 1 << 20 / (32 << 10) {
			time.Sleep(2 * time.Second) // of the bubble: a piece of 64 KiB in 4 s
			if _, err := io.CopyN(&got, resp.Body, 32<<10); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.HasPrefix(f.lines(false), got.String()) {
			t.Error("other bytes came")
		}
		if n := reads[len(reads)-1].Len(); n > 100 {
			t.Errorf("%d logs of 1 kB are read at once for a slow client", n)
		}
		begun := time.Now()
		var took time.Duration
		for counted(t, s, "/v1/topics/{topic}/logs", "GET", "499") == 0 {
			time.Sleep(time.Second)
			if took = time.Since(begun); took > time.Minute {
				t.Fatal("it is still there")
			}
		}
		if took < 5*time.Second || took > 11*time.Second {
			t.Errorf("cut off after %v", took)
		}
		if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("it ends with %v", err)
		}
	})
}

// A store that takes its time is not the client's fault.
func TestLinesOfASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake{n: 3_000, size: 1_000}
		f.wrong = func(ctx, api.Run) error { time.Sleep(time.Minute); return nil }
		conn := inMemory(t, f.server())
		fmt.Fprintf(conn, "GET /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", wantsLines)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != f.lines(false) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// In HTTP/2 a deadline strikes also when nothing is being written.
func TestLinesOverHTTP2(t *testing.T) {
	for name, c := range map[string]struct {
		slow  bool
		wrong func(ctx, api.Run) error
		whole bool
	}{
		"whole":      {whole: true},
		"slow store": {wrong: func(ctx, api.Run) error { time.Sleep(time.Minute); return nil }, whole: true},
		"broken off": {wrong: func(_ ctx, run api.Run) error {
			if run.From > 2_000 {
				return api.Errorf(api.CodeCollected, "gone")
			}
			return nil
		}},
		"stalled": {slow: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := fake{n: 12_000, size: 1_000, wrong: c.wrong} // more than a client takes of itself
			client, server := net.Pipe()
			listener := make(pipes, 1)
			listener <- server
			var h2 http.Protocols
			h2.SetUnencryptedHTTP2(true)
			h := &http.Server{Handler: f.server(), Protocols: &h2}
			done := make(chan error)
			go func() { done <- h.Serve(listener) }()
			transport := &http.Transport{Protocols: &h2, DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
			defer func() {
				transport.CloseIdleConnections()
				client.Close()
				close(listener)
				h.Close()
				<-done
			}()
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://h/v1/topics/t/logs", nil)
			r.RequestURI = ""
			r.Header.Set("Accept", asLines)
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(name, err)
			}
			defer resp.Body.Close()
			if c.slow {
				time.Sleep(20 * time.Second) // of the bubble
			}
			got, err := io.ReadAll(resp.Body)
			if c.whole != (err == nil) || c.whole != (string(got) == f.lines(false)) || !strings.HasPrefix(f.lines(false), string(got)) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		})
	}
}

// A server that stops breaks a range off at once, whether its client reads or not.
func TestLinesEndWithTheServer(t *testing.T) {
	for _, stalled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			base, stop := context.WithCancelCause(t.Context())
			begun := make(chan struct{}, 1)
			f := fake{n: 3_000, size: 1_000}
			f.wrong = func(ctx ctx, run api.Run) error {
				if run.From > 100 && !stalled {
					begun <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			s := f.server()
			conn := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancelCause(r.Context())
				defer context.AfterFunc(base, func() { cancel(context.Cause(base)) })()
				s.ServeHTTP(w, r.WithContext(ctx))
			}))
			fmt.Fprintf(conn, "GET /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", wantsLines)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			ended := make(chan error, 1)
			if stalled {
				synctest.Wait()
			} else {
				go func() {
					_, err := io.Copy(io.Discard, resp.Body)
					ended <- err
				}()
				<-begun
			}
			stop(api.Errorf(api.CodeUnavailable, "stopping"))
			synctest.Wait()
			if n := counted(t, s, "/v1/topics/{topic}/logs", "GET", "503"); n != 1 {
				t.Errorf("stalled %t: %v answers with 503", stalled, n)
			}
			if stalled {
				_, err := io.Copy(io.Discard, resp.Body)
				ended <- err
			}
			if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("stalled %t: it ends with %v", stalled, err)
			}
		})
	}
}

// A limit on streams refuses a range as lines; however one ends, it is counted out.
func TestLinesAreAdmitted(t *testing.T) {
	var open, in int
	var refusal error
	f := fake{n: 3}
	s := New(Config{Logs: f.logs(), Streams: gate{admit: func() (func(), error) {
		if refusal != nil {
			return nil, refusal
		}
		open++
		in++
		return func() { open-- }, nil
	}}})
	call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines).wants(t, 200, strings.TrimSuffix(f.lines(false), "\n"))
	call(t, s, "GET", "/v1/topics/t/logs?limit=0", "", wantsLines).wantsProblem(t, 400, api.CodeInvalidRequest)
	call(t, s, "GET", "/v1/topics/t/logs", "")
	if in != 1 || open != 0 {
		t.Errorf("%d were admitted, %d are open", in, open)
	}
	refusal = api.Errorf(api.CodeRateLimited, "one too many")
	call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines).wantsProblem(t, 429, api.CodeRateLimited)
	refusal = nil
	broken := f
	for _, wrong := range []func() error{func() error { return errors.New("a fault") }, func() error { panic("a fault") }} {
		broken.wrong = func(ctx, api.Run) error { return wrong() }
		s.Logs = broken.logs()
		call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines).wantsProblem(t, 500, api.CodeInternal)
	}
	if diff := cmp.Diff([]int{3, 0}, []int{in, open}); diff != "" {
		t.Error(diff)
	}
}

type gate struct {
	Streams
	admit func() (func(), error)
}

func (g gate) Admit(*http.Request) (func(), error) { return g.admit() }

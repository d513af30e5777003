// Package e2e tests the whole: a real server on a real PostgreSQL, spoken to over HTTP. Every answer is checked against
// openapi.yaml, and every stream's events by a strict parser and r3labs' client.
package e2e

import (
	"context"
	"flag"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"pipeproc"
	"pipeproc/client"
	"pipeproc/client/contracttest"
	"pipeproc/cmd/server/service"
	"pipeproc/livestream/ssetest"
	"pipeproc/pgstore/pgtest"
)

// contract is openapi.yaml, and remembers what was answered in all tests of the package.
var contract = func() *contracttest.Contract {
	c, err := contracttest.New(pipeproc.OpenAPI)
	if err != nil {
		panic(err)
	}
	return c
}()

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if testing.Verbose() && flag.Lookup("test.run").Value.String() == "" {
		tellMissing(os.Stdout)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// server is a running server and a client of it.
type server struct {
	*client.Client
	URL      string
	Database string // its URL
	Stop     func() // stops it in order and waits for its end; the end of the test does it otherwise
}

// start runs a server on a database of its own. change may alter its configuration.
func start(tb testing.TB, change ...func(*service.Config)) *server {
	tb.Helper()
	return startOn(tb, pgtest.Database(tb), change...)
}

// startOn runs a server on the database at dbURL: call it again for a second one on the same database.
func startOn(tb testing.TB, dbURL string, change ...func(*service.Config)) *server {
	tb.Helper()
	cfg := service.DefaultConfig()
	cfg.Listen = []string{"127.0.0.1:0"}
	cfg.DatabaseURL = dbURL
	cfg.UnsafeDurability = true // the tests' PostgreSQL does not flush
	cfg.Logger = pgtest.Logger()
	for _, f := range change {
		f(&cfg)
	}
	s, err := service.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return s.Run(ctx) })
	ended := make(chan struct{})
	var failed error
	go func() {
		failed = g.Wait()
		close(ended)
	}()
	select {
	case <-s.Ready():
	case <-ended:
		cancel()
		tb.Fatalf("the server did not start: %v", failed)
	case <-time.After(30 * time.Second):
		cancel()
		tb.Fatal("the server did not start in 30 s")
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	checked := contract.Transport(ssetest.Transport(transport, tb.Errorf), tb.Errorf)
	c, err := client.New(s.URLs()[0], client.WithHTTPClient(&http.Client{Transport: checked}))
	if err != nil {
		tb.Fatal(err)
	}
	stop := func() {
		transport.CloseIdleConnections()
		cancel()
		<-ended
		if failed != nil {
			tb.Errorf("the server ended with: %v", failed)
			failed = nil
		}
	}
	tb.Cleanup(stop)
	return &server{Client: c, URL: s.URLs()[0], Database: dbURL, Stop: stop}
}

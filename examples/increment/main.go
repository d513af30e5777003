// Command increment is a webhook processor for PipeProc: it answers each log {"myNumber": n} with
// {"myIncrementedNumber": n + 1}.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", cmp.Or(os.Getenv("INCREMENT_LISTEN"), "127.0.0.1:9090"),
		"`address` to listen on, host:port (also INCREMENT_LISTEN in the environment)")
	flag.Parse()
	keys, err := readSecrets(os.Getenv("INCREMENT_SECRET")) // not a flag: those can be seen by every user
	if err != nil {
		fmt.Fprintln(os.Stderr, "increment:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, keys, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "increment:", err)
		os.Exit(1)
	}
}

// run serves until ctx is cancelled; calls in flight are answered. With keys, calls are to be signed with one of them.
func run(ctx context.Context, listen string, keys [][]byte, out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on http://%s/increment\n", l.Addr())
	s := &http.Server{
		Handler:           routes(keys),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than PipeProc keeps idle connections, so that it is the one to close them
	}
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- s.Shutdown(ctx)
	})()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func routes(keys [][]byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /increment", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 32<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		if len(keys) > 0 {
			if err := verify(keys, r.Header, body, time.Now()); err != nil {
				// PipeProc tries again: time to change the secret over.
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
		}
		increment(w, body)
	})
	return mux
}

// delivery is what PipeProc sends, as far as it matters here.
type delivery struct {
	Logs []struct {
		ID   string `json:"id"`
		Body struct {
			MyNumber *float64 `json:"myNumber"`
		} `json:"body"`
	} `json:"logs"`
}

type result struct {
	MyIncrementedNumber float64 `json:"myIncrementedNumber"`
}

func increment(w http.ResponseWriter, body []byte) {
	var d delivery
	if err := json.Unmarshal(body, &d); err != nil {
		// Not for this processor. 400 and 422 mean that another attempt is useless: PipeProc disables the proc, and
		// nothing is skipped unseen.
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	results := []result{}
	for _, log := range d.Logs {
		if log.Body.MyNumber == nil {
			http.Error(w, "log "+log.ID+" has no myNumber", http.StatusUnprocessableEntity)
			return
		}
		results = append(results, result{*log.Body.MyNumber + 1})
	}
	var answer any = results // an array: one log for each element
	if len(results) == 1 {
		answer = results[0] // an object: one log
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // PipeProc repeats a call whose answer does not arrive
}

package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

// bodies are the routes that take one, each with a good body, and whether it may be left out.
var bodies = []struct {
	method, path, good string
	optional           bool
}{
	{"POST", "/v1/commit", `{"topic":"t","body":{}}`, false},
	{"POST", "/v1/topics/t/logs", `{}`, false},
	{"POST", "/v1/claims", `{"procs":[{"name":"p","topic":"t"}],"wait":0}`, false},
	{"PUT", "/v1/procs/p", `{"topic":"t"}`, false},
	{"PATCH", "/v1/procs/p", `{"count":1}`, true},
	{"POST", "/v1/procs/p/claim", `{"topic":"t"}`, true},
	{"POST", "/v1/procs/p/ack", `{"token":"x"}`, true},
	{"POST", "/v1/procs/p/ack-commit", `{"token":"x","logs":{"topic":"t","body":{}}}`, false},
	{"POST", "/v1/procs/p/reclaim", `{"token":"x"}`, true},
	{"POST", "/v1/procs/p/extend", `{"token":"x"}`, false},
	{"POST", "/v1/procs/p/seek", `{"offset":">"}`, false},
	{"POST", "/v1/procs/p/disable", `{}`, true},
	{"POST", "/v1/procs/p/resume", `{}`, true},
	{"POST", "/v1/wait", `{"procs":["p"]}`, true},
	{"POST", "/v1/system-procs", `{"name":"s","from":"t","processor":"http://h/"}`, false},
	{"PATCH", "/v1/system-procs/s", `{"to":"u"}`, true},
	{"POST", "/v1/system-procs/s/rotate-secret", `{"overlap":0}`, true},
	{"POST", "/v1/live-procs", `{"topic":"t","mode":"all"}`, false},
	{"POST", "/v1/live-procs/n/cancel", `{}`, true},
	{"POST", "/v1/stream-tickets", `{"path":"/v1/tail"}`, false},
	{"POST", "/v1/gc", `{}`, true},
	{"POST", "/v1/shutdown", `{}`, true},
}

// willing is a surface whose store does whatever it is asked, and counts.
func willing(calls *int) *Server {
	one := func(string, string) (api.Proc, error) { *calls++; return api.Proc{}, nil }
	return New(Config{
		Logs: logs{commit: func(l []api.NewLog, _ *api.IdempotencyKey) (api.Committed, error) {
			*calls++
			return api.Committed{IDs: make([]api.ID, len(l))}, nil
		}},
		Procs: procs{
			claim:    func(ctx, string, api.ClaimRequest) (*api.Claimed, error) { *calls++; return nil, nil },
			claimAny: func(ctx, api.ClaimAnyRequest) (*api.Claimed, error) { *calls++; return nil, nil },
			ack:      func(string, api.AckRequest) (api.Acked, error) { *calls++; return api.Acked{}, nil },
			reclaim:  func(string, string) (api.Range, error) { *calls++; return api.Range{}, nil },
			extend:   func(string, string) (api.Claim, error) { *calls++; return api.Claim{}, nil },
			seek:     func(string, api.Offset) (api.Proc, error) { *calls++; return api.Proc{}, nil },
			create:   func(string, api.ProcOptions) (api.Proc, bool, error) { *calls++; return api.Proc{}, true, nil },
			patch:    func(string, api.ProcPatch) (api.Proc, error) { *calls++; return api.Proc{}, nil },
			one:      one,
			wait:     func(api.WaitRequest) (api.Waited, error) { *calls++; return api.Waited{}, nil },
		},
		SystemProcs: systemProcs{
			create: func(api.SystemProcSpec) (api.SystemProcMade, bool, error) {
				*calls++
				return api.SystemProcMade{}, true, nil
			},
			rotate: func(string, api.SecretRotation) (api.RotatedSecret, error) { *calls++; return api.RotatedSecret{}, nil },
			patch:  func(string, api.SystemProcPatch) (api.SystemProc, error) { *calls++; return api.SystemProc{}, nil },
		},
		LiveProcs: liveProcs{one: one, create: func(api.LiveProcSpec) (api.Proc, error) { *calls++; return api.Proc{}, nil }},
		Collector: collector{collect: func(int64) (api.GCRun, error) { *calls++; return api.GCRun{}, nil }},
		Shutdown:  func() { *calls++ },
	})
}

func TestEveryRouteWithABodyIsListed(t *testing.T) {
	n := 0
	for _, route := range surface {
		switch method, _, _ := strings.Cut(route, " "); method {
		case "POST", "PUT", "PATCH":
			n++
		}
	}
	if n != len(bodies) {
		t.Errorf("%d routes take a body, %d are listed", n, len(bodies))
	}
}

func TestBodies(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, b := range bodies {
		calls := 0
		s := willing(&calls)
		a := call(t, s, b.method, b.path, b.good)
		if b.path == "/v1/stream-tickets" {
			calls++ // no store hears of it
		}
		if a.status >= 300 || calls != 1 {
			t.Errorf("%s %s: %d after %d calls: %s", b.method, b.path, a.status, calls, a.body)
		}
		calls = 0
		empty := []answered{call(t, s, b.method, b.path, ""), call(t, s, b.method, b.path, "", "Content-Type: text/plain")}
		for _, a := range empty {
			switch {
			case b.optional && (a.status >= 300 || calls != 2):
				t.Errorf("%s %s without a body: %d after %d calls: %s", b.method, b.path, a.status, calls, a.body)
			case !b.optional && a.status != 400:
				t.Errorf("%s %s without a body: %d: %s", b.method, b.path, a.status, a.body)
			}
		}
		if !b.optional && b.path != "/v1/topics/t/logs" {
			empty[0].wantsProblem(t, 400, api.CodeInvalidRequest)
		}
		calls = 0
		for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/problem+json",
			"application/json; charset=utf-16", "application/json;;", "json", "text/json", "*/*"} {
			a := call(t, s, b.method, b.path, b.good, "Content-Type: "+contentType)
			a.wantsProblem(t, 415, api.CodeUnsupportedMedia)
			if !strings.Contains(contentType, "charset") && !strings.Contains(a.body, "--json") {
				t.Errorf("the detail does not name --json: %s", a.body)
			}
		}
		call(t, s, b.method, b.path, b.good, "Content-Encoding: gzip").wantsProblem(t, 415, api.CodeUnsupportedMedia)
		call(t, s, b.method, b.path, b.good, "Content-Type: application/json", "Content-Type: text/plain").
			wantsProblem(t, 415, api.CodeUnsupportedMedia)
		for _, malformed := range []string{"{", "}", `{"a":}`, "{}{}", b.good + "x", "nul", "\xff{}", `{"a":"` + "\xff" + `"}`, "\xef\xbb\xbf{}", `{'a':1}`, `{"a":1,}`} {
			a := call(t, s, b.method, b.path, malformed)
			if got := a.code(t); a.status != 400 || got != api.CodeInvalidRequest {
				t.Errorf("%s %s %q: %d %s", b.method, b.path, malformed, a.status, got)
			}
		}
		if b.path != "/v1/topics/t/logs" {
			member, _, _ := strings.Cut(strings.TrimPrefix(b.good, "{"), ":")
			strict := []string{"null", `5`, `"x"`, "true", `{"nope":1}`, `{"":1}`, deep, `{"nope":` + deep + `}`}
			if b.path != "/v1/commit" {
				strict = append(strict, "[]", "[{}]")
			}
			if member != "}" {
				strict = append(strict, strings.TrimSuffix(b.good, "}")+","+b.good[1:],
					strings.Replace(b.good, member, strings.ToUpper(member), 1), `{`+member+`:{"x":1},"nope":1}`)
			}
			for _, body := range strict {
				a := call(t, s, b.method, b.path, body)
				if got := a.code(t); a.status != 400 || got != api.CodeInvalidRequest {
					t.Errorf("%s %s %.40q: %d %s: %s", b.method, b.path, body, a.status, got, a.body)
				}
			}
		}
		huge := b.good + strings.Repeat(" ", api.MaxRequestSize)
		call(t, s, b.method, b.path, huge).wantsProblem(t, 413, api.CodeTooLarge)
		if calls != 0 {
			t.Errorf("%s %s: %d calls for bad bodies", b.method, b.path, calls)
		}
		for _, contentType := range []string{"application/json; charset=utf-8", `Application/JSON ; charset="UTF-8"`, "application/json;odata=x"} {
			if a := call(t, s, b.method, b.path, " \r\n\t"+b.good+"\n", "Content-Type: "+contentType); a.status >= 300 {
				t.Errorf("%s %s %s: %d: %s", b.method, b.path, contentType, a.status, a.body)
			}
		}
	}
}

func TestRequestSize(t *testing.T) {
	calls := 0
	s := willing(&calls)
	full := `{"token":"` + "x" + `"}`
	full += strings.Repeat(" ", api.MaxRequestSize-len(full))
	if a := call(t, s, "POST", "/v1/procs/p/ack", full); a.status != 200 || calls != 1 {
		t.Errorf("16 MiB: %d: %s", a.status, a.body)
	}
	for _, known := range []bool{true, false} {
		r := request("POST", "/v1/procs/p/ack", full+" ")
		if !known {
			r.ContentLength = -1
		}
		do(t, s, r).wantsProblem(t, 413, api.CodeTooLarge)
		if calls != 1 {
			t.Error("too large a request was done")
		}
	}
	// Chunked, where the type can be told only when there is something.
	r := request("POST", "/v1/procs/p/ack", "{}", "Content-Type: text/plain")
	r.ContentLength = -1
	do(t, s, r).wantsProblem(t, 415, api.CodeUnsupportedMedia)
}

// A client that sends everything before it reads gets the answer, not a reset.
func TestRefusalReachesAClientThatIsStillSending(t *testing.T) {
	calls := 0
	server := serve(t, willing(&calls))
	for _, c := range []struct {
		path, contentType string
		size, status      int
	}{
		{"/v1/commit", "application/json", api.MaxRequestSize + 1<<20, 413},
		{"/v1/commit", "text/plain", 8 << 20, 415},
		{"/v1/nowhere", "application/json", 8 << 20, 404},
		{"/v1/topics/a.b/logs", "application/json", 8 << 20, 400},
	} {
		conn := dial(t, server.Listener.Addr().String())
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", c.path, c.contentType, c.size)
		if _, err := io.CopyN(conn, spaces{}, int64(c.size)); err != nil {
			t.Fatalf("%s %s: %v", c.path, c.contentType, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s %s: %v", c.path, c.contentType, err)
		}
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d", c.path, c.contentType, resp.StatusCode)
		}
		resp.Body.Close()
	}
	// Who asks first is told at once, and sends nothing.
	conn := dial(t, server.Listener.Addr().String())
	fmt.Fprintf(conn, "POST /v1/commit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", 17<<20)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// pipes is a listener in memory, so that time-outs run in a bubble's time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// inMemory serves s to one connection, until the end of the bubble's test.
func inMemory(t *testing.T, s http.Handler) net.Conn {
	client, server := net.Pipe()
	listener := make(pipes, 1)
	listener <- server
	h := &http.Server{Handler: s}
	done := make(chan error)
	go func() { done <- h.Serve(listener) }()
	t.Cleanup(func() {
		client.Close()
		close(listener)
		h.Close()
		<-done
	})
	return client
}

func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		conn := inMemory(t, willing(&calls))
		begun := time.Now()
		fmt.Fprintf(conn, "POST /v1/procs/p/ack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if took := time.Since(begun); resp.StatusCode != 400 || took != readTimeout || !resp.Close || calls != 0 {
			t.Errorf("%d after %v, close %t, %d calls", resp.StatusCode, took, resp.Close, calls)
		}
	})
}

// A request that waits is not struck by the deadline of its own body, nor by what the answer before it left.
func TestLongWaitsOnOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := func(ctx ctx) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Second): // of the bubble
				return nil
			}
		}
		s := New(Config{
			Procs: procs{claim: func(ctx ctx, _ string, _ api.ClaimRequest) (*api.Claimed, error) { return nil, long(ctx) }},
			Streams: streams(func(_ string, w http.ResponseWriter, r *http.Request) error {
				if err := long(r.Context()); err != nil {
					return err
				}
				_, err := io.WriteString(w, "data: late")
				return err
			}),
		})
		conn := inMemory(t, s)
		reader := bufio.NewReader(conn)
		const claim = "POST /v1/procs/p/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
		for _, c := range []struct {
			request string
			status  int
			body    string
		}{
			{claim, 204, ""},
			{claim, 204, ""},
			{"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, `{"status":"ok"}` + "\n"},
			{"GET /v1/tail?topic=t HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, "data: late"},
		} {
			fmt.Fprint(conn, c.request)
			resp, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatalf("%q: %v", c.request, err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || string(body) != c.body {
				t.Fatalf("%q: %d %q %v", c.request, resp.StatusCode, body, err)
			}
			resp.Body.Close()
		}
	})
}

// A client that does not read holds its handler for a bounded time, and its claim is undone.
func TestClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undone := make(chan time.Time, 1)
		s := New(Config{Procs: procs{
			claim: func(ctx, string, api.ClaimRequest) (*api.Claimed, error) {
				return claimed(`["` + strings.Repeat("x", 4<<20) + `"]`), nil
			},
			undo: func(ctx ctx, proc, token string) error {
				if proc != "p" || token != "tok" || ctx.Err() != nil {
					t.Errorf("undo of %s %s: %v", proc, token, ctx.Err())
				}
				undone <- time.Now()
				return nil
			},
		}})
		conn := inMemory(t, s)
		begun := time.Now()
		fmt.Fprintf(conn, "POST /v1/procs/p/claim HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if took := (<-undone).Sub(begun); took != writeTimeout {
			t.Errorf("undone after %v", took)
		}
		synctest.Wait()
		if got := counted(t, s, "/v1/procs/{proc}/claim", "POST", "499"); got != 1 {
			t.Errorf("counted %v", got)
		}
	})
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadAnswer(t *testing.T) {
	long := strings.Repeat("x", 40<<10) // more than the buffer
	tests := map[string]struct {
		answer string
		status int
		body   string
		rest   string // what is left for the next answer
		wrong  string // part of the error
	}{
		"length":          {answer: "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nabHTTP", status: 201, body: "ab", rest: "HTTP"},
		"any case":        {answer: "HTTP/1.1 200 OK\r\ncOnTeNt-LENGTH:  3 \r\nX: Content-Length: 9\r\n\r\nabc", status: 200, body: "abc"},
		"empty":           {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200},
		"bare line ends":  {answer: "HTTP/1.1 200 OK\nContent-Length: 1\n\na", status: 200, body: "a"},
		"no content":      {answer: "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n\r\nnext", status: 204, rest: "next"},
		"no reason":       {answer: "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", status: 200, body: "a"},
		"keep-alive":      {answer: "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", status: 200, body: "a"},
		"long":            {answer: "HTTP/1.1 200 OK\r\nContent-Length: 40960\r\n\r\n" + long + "r", status: 200, body: long, rest: "r"},
		"chunks":          {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nr", status: 200, body: "ab0123456789", rest: "r"},
		"trailers":        {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\nr", status: 200, body: "a", rest: "r"},
		"long chunk":      {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na000\r\n" + long + "\r\n0\r\n\r\n", status: 200, body: long},
		"broken off":      {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", wrong: "unexpected EOF"},
		"broken chunk":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", wrong: "unexpected EOF"},
		"no last chunk":   {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", wrong: "unexpected EOF"},
		"chunk too long":  {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", wrong: "a chunk's end"},
		"chunk's size":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", wrong: "chunk"},
		"nothing":         {answer: "", wrong: "unexpected EOF"},
		"not HTTP":        {answer: "SSH-2.0-OpenSSH_9.2\r\n", wrong: "not an answer"},
		"no number":       {answer: "HTTP/1.1 abc OK\r\n\r\n", wrong: "not an answer"},
		"no length":       {answer: "HTTP/1.1 200 OK\r\n\r\nabc", wrong: "length is not told"},
		"negative length": {answer: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", wrong: "header"},
		"no header":       {answer: "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", wrong: "header"},
		"close":           {answer: "HTTP/1.1 503 Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", wrong: "ends the connection"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, in := range []io.Reader{strings.NewReader(tt.answer), iotest.OneByteReader(strings.NewReader(tt.answer))} {
				r := bufio.NewReaderSize(in, 16<<10)
				var body []byte
				status, err := readAnswer(r, func(_ int, part []byte) { body = append(body, part...) })
				if tt.wrong != "" {
					if err == nil || !strings.Contains(err.Error(), tt.wrong) {
						t.Errorf("got %v, want an error with %q", err, tt.wrong)
					}
					continue
				}
				rest, _ := io.ReadAll(r)
				if err != nil || status != tt.status || string(body) != tt.body || string(rest) != tt.rest {
					t.Errorf("status %d, body of %d bytes, left %q, error %v", status, len(body), rest, err)
				}
			}
		})
	}
}

// TestWire holds that requests are whole, and that another status than the one wanted is an error which tells why.
func TestWire(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusConflict)
		}
		fmt.Fprintf(w, "%s %s %s %q", r.Method, r.URL, r.Header.Get("Content-Type")+r.Header.Get("Accept"), data)
	}))
	defer server.Close()
	w, err := dialWire(t.Context(), strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, tt := range []struct{ request, want string }{
		{string(get("/a?b=c", "Accept: text/plain")), `GET /a?b=c text/plain ""`},
		{string(post("/p", []byte(`{}`))), `POST /p application/json "{}"`},
		{string(postEmpty("/e")), `POST /e  ""`},
	} {
		got, err := w.do([]byte(tt.request), 200)
		if err != nil || string(got) != tt.want {
			t.Errorf("got %s, %v, want %s", got, err, tt.want)
		}
	}
	_, err = w.do(get("/no"), 200)
	if err == nil || !strings.Contains(err.Error(), "GET /no") || !strings.Contains(err.Error(), "409 instead of 200: GET /no") {
		t.Errorf("a refusal: %v", err)
	}
	if _, err := w.do(get("/no"), 409); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

// TestLoops holds what the loops count, and that a worker's error ends them.
func TestLoops(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	const took = 2 * time.Millisecond
	steady := each(4, func(int) worker { return func(*wire) error { time.Sleep(took); return nil } })
	f, err := closedLoop(t.Context(), address, 100*time.Millisecond, steady)
	if err != nil || f.p50 < took || f.rate <= 0 || f.rate > 4/took.Seconds() {
		t.Errorf("closed: %v, %v", f, err)
	}
	f, err = openLoop(t.Context(), address, 100*time.Millisecond, 500, steady)
	if err != nil || f.p50 < took || f.rate > 510 {
		t.Errorf("open: %v, %v", f, err)
	}
	// One connection cannot keep up with 1,000/s: what waits for it is charged for the wait, which a closed loop hides.
	f, err = openLoop(t.Context(), address, 100*time.Millisecond, 1_000, steady[:1])
	if err != nil || f.p99 < 80*time.Millisecond {
		t.Errorf("open, too slow: %v, %v", f, err)
	}
	boom := fmt.Errorf("boom")
	fails := append(steady[:3:3], func(*wire) error { return boom })
	if _, err := closedLoop(t.Context(), address, time.Minute, fails); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("closed, failing: %v", err)
	}
	if _, err := openLoop(t.Context(), address, 100*time.Millisecond, 500, fails); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("open, failing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := closedLoop(ctx, address, time.Minute, steady); err == nil {
		t.Error("cancelled, and yet it ran")
	}
}

func TestSummary(t *testing.T) {
	var times []time.Duration
	for i := range 1_000 {
		times = append(times, time.Duration(1_000-i)*time.Microsecond)
	}
	want := figures{p50: 501 * time.Microsecond, p99: 991 * time.Microsecond, p999: 1_000 * time.Microsecond, rate: 500}
	if got := summary(times, 2*time.Second); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := summary([]time.Duration{7}, time.Second), (figures{7, 7, 7, 1}); got != want {
		t.Errorf("one: got %v, want %v", got, want)
	}
	if got := summary(nil, time.Second); got != (figures{}) {
		t.Errorf("none: got %v", got)
	}
}

// TestRatio holds that a ratio is the median of the rounds' ratios, not the ratio of the medians.
func TestRatio(t *testing.T) {
	s := &series{work: []figures{{rate: 10}, {rate: 90}, {rate: 30}}, limit: []figures{{rate: 20}, {rate: 100}, {rate: 300}}}
	if s.rate() != 30 || s.allowed() != 100 || s.ratio() != 0.5 {
		t.Errorf("rate %v, allowed %v, ratio %v", s.rate(), s.allowed(), s.ratio())
	}
	for least, met := range map[float64]bool{0.5: true, 0.51: false} {
		if got := ratioBar(s, least); got.met != met {
			t.Errorf("%v: %v", least, got)
		}
	}
}

func TestResults(t *testing.T) {
	s := &series{work: []figures{{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, 50}}, limit: []figures{{rate: 100}},
		limits: "no-op"}
	var r results
	r.add("good", "/s", 20, s, ratioBar(s, 0.5), p99Bar(s, 3*time.Millisecond))
	r.add("late", "/s", 0, s, ratioBar(s, 0.5), p99Bar(s, 2*time.Millisecond))
	r.add("slow", "/s", 0, s, rateBar(s, 60, "/s"))
	r.add("told", "/s", 0, s)
	r.skip("a|b", "not here", "≥ 1 ×")
	if diff := cmp.Diff([]string{"late", "slow", "a|b"}, r.missed()); diff != "" {
		t.Errorf("missed (-want +got)\n%s", diff)
	}
	var b bytes.Buffer
	r.markdown(&b)
	const want = `| work | p50 ms | p99 ms | p99.9 ms | throughput | MiB | limit | ratio | bar | verdict |
|---|---|---|---|---|---|---|---|---|---|
| good | 1.00 | 2.00 | 3.00 | 50.0 /s | 20 | no-op: 100.0 | 0.50 | ≥ 0.50 ×, p99 < 3ms | met |
| late | 1.00 | 2.00 | 3.00 | 50.0 /s |  | no-op: 100.0 | 0.50 | ≥ 0.50 ×, p99 < 2ms | MISSED |
| slow | 1.00 | 2.00 | 3.00 | 50.0 /s |  | no-op: 100.0 | 0.50 | ≥ 60.0 /s | MISSED |
| told | 1.00 | 2.00 | 3.00 | 50.0 /s |  | no-op: 100.0 | 0.50 |  |  |
| a\|b |  |  |  | not measured: not here |  |  |  | ≥ 1 × | not measured |
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTokenRequest(t *testing.T) {
	build := func(token string) []byte { return post("/v1/procs/p/ack", []byte(`{"token":"`+token+`"}`)) }
	r := newTokenRequest("", build)
	for _, answer := range []string{`{"claim":{"token":"abc"}}`, `{"next":{"claim":{"token":"xyz","x":1}}}`, `{"token":"longer"}`} {
		token, err := tokenIn([]byte(answer))
		if err != nil {
			t.Fatal(err)
		}
		r.set(token)
		if diff := cmp.Diff(string(build(string(token))), string(r.request)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	for _, answer := range []string{`{}`, `{"token":""}`, `{"token":"abc`, `{"next":null}`} {
		if _, err := tokenIn([]byte(answer)); err == nil {
			t.Errorf("%s has a token", answer)
		}
	}
}

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/cmd/server/service"
)

const ndjson = "application/x-ndjson"

// ask sends a GET with this Accept header, and leaves the body to be read.
func (w procWire) ask(path, accept string) *http.Response {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*streamPatience)
	resp, err := w.Do(ctx, http.MethodGet, path, nil, http.Header{"Accept": {accept}})
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	return resp
}

// lines begins to read a range as lines.
func (w procWire) lines(path string) *http.Response {
	w.t.Helper()
	resp := w.ask(path, ndjson)
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != ndjson {
		w.t.Fatalf("%s: %d %s", path, resp.StatusCode, got)
	}
	return resp
}

// megabyte is the largest body.
var megabyte = `["` + strings.Repeat("x", api.MaxBodySize-4) + `"]`

// fill adds n logs of a megabyte to a topic, as commits would, but faster: a few more than 20 are more than the connection
// to a client holds by itself.
func (w procWire) fill(topic string, n int) {
	w.t.Helper()
	w.commit(topic, 1)
	conn, err := pgx.Connect(w.t.Context(), w.Database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(w.t.Context()))
	if _, err := conn.Exec(w.t.Context(), `WITH t AS (UPDATE pipeproc_default.topics SET head = head + $2 WHERE name = $1 RETURNING *)
		INSERT INTO pipeproc_default.logs (topic_id, seq, ts, body)
		SELECT id, head - $2 + i, last_ts, $3 FROM t, generate_series(0::bigint, $2 - 1) AS i`, topic, int64(n), []byte(megabyte)); err != nil {
		w.t.Fatal(err)
	}
}

// asLines is what logs are as lines; most is the most of them, 0 all.
func asLines(t *testing.T, logs iter.Seq2[api.Log, error], most int) string {
	t.Helper()
	var b strings.Builder
	n := 0
	for log, err := range logs {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, `{"id":"%s","body":%s}`+"\n", log.ID, log.Body)
		if n++; n == most {
			break
		}
	}
	return b.String()
}

// TestLinesAreThePages holds that a range as lines is, byte for byte, what its pages tell.
func TestLinesAreThePages(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	long := megabyte[:200_000] + `"]` // longer than any buffer at the start
	for i, body := range slices.Concat(nastyBodies, []string{long, `{}`, long, long}) {
		w.post("/v1/topics/t/logs", body).is(http.StatusCreated)
		if i%6 == 0 {
			logs := make([]string, 300)
			for j := range logs {
				logs[j] = fmt.Sprintf(`{"topic":"t","body":{"i":%d,"j":[%de2],"x":"%s"}}`, i, j, strings.Repeat("ü", j%37*(i%5)))
			}
			w.post("/v1/commit", "["+strings.Join(logs, ",")+"]").is(http.StatusCreated)
		}
	}
	plain := unchecked(t, w.server, &http.Transport{})
	middle := w.get("/v1/topics/t/logs/:700").is(http.StatusOK).str("id")
	for _, o := range []client.RangeOptions{
		{}, {Limit: -1}, {Limit: 1}, {Limit: 701}, {Limit: 1_000_000}, {Start: ":350", End: middle}, {Start: ":350", End: middle, Exclusive: true},
		{Start: middle}, {Start: middle, Exclusive: true, Limit: 400}, {Start: "0"}, {End: ":0", Exclusive: true},
	} {
		for _, reverse := range []bool{false, true} {
			query, pages, lines := "", plain.RangeAll, w.RangeLines
			if reverse {
				o.Start, o.End = o.End, o.Start
				query, pages, lines = "direction=reverse&", plain.RevrangeAll, w.RevrangeLines
			}
			paged := o
			paged.Limit = 1000
			want := asLines(t, pages(t.Context(), "t", paged), max(0, o.Limit))
			for name, value := range map[string]string{"start": o.Start, "end": o.End} {
				if value != "" {
					query += name + "=" + value + "&"
				}
			}
			if o.Limit != 0 {
				query += fmt.Sprintf("limit=%d&", o.Limit)
			}
			query += fmt.Sprintf("exclusive=%t", o.Exclusive)
			got, err := io.ReadAll(w.lines("/v1/topics/t/logs?" + query).Body)
			if err != nil || string(got) != want {
				t.Errorf("%s: %d bytes %v, want %d", query, len(got), err, len(want))
			}
			if got := asLines(t, lines(t.Context(), "t", o), 0); got != want {
				t.Errorf("%s: the client reads %d bytes, want %d", query, len(got), len(want))
			}
		}
	}
}

// TestLinesMeanTheSameRange holds that bounds mean the same in both forms, and are refused alike.
func TestLinesMeanTheSameRange(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	bounds := []string{"", ":0", ":3", ":8", "@0+1", "@10+99", "11", "=0", "=x"}
	compare := func(path string) {
		t.Helper()
		page, lines := f.get(path), f.sendWith(http.MethodGet, path, "", "Accept", ndjson)
		if page.Status != http.StatusOK {
			lines.tellsAs(page)
			return
		}
		var want bytes.Buffer
		for i, id := range page.ids("logs") {
			body, err := json.Marshal(page.at(fmt.Sprintf("logs.%d.body", i)))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&want, `{"id":"%s","body":%s}`+"\n", id, body)
		}
		if diff := cmp.Diff(want.String(), lines.is(http.StatusOK).Text); diff != "" {
			t.Errorf("%s (-page +lines):\n%s", path, diff)
		}
		if len(want.Bytes()) > 0 {
			return
		}
		if head := f.sendWith(http.MethodHead, path, "", "Accept", ndjson); head.Status != http.StatusOK || head.Header.Get("Content-Type") != ndjson {
			t.Errorf("HEAD %s: %d %v", path, head.Status, head.Header)
		}
	}
	all := func() {
		for _, start := range bounds {
			for _, end := range bounds {
				for _, more := range []string{"", "exclusive=true&limit=2", "direction=reverse&exclusive=true"} {
					compare("/v1/topics/r/logs?" + query("start="+f.bound(start), "end="+f.bound(end), more))
					if start == "" && end == "" {
						compare("/v1/topics/r/logs?" + more)
					}
				}
			}
		}
	}
	all()
	compare("/v1/topics/unknown/logs")
	compare("/v1/topics/b.d/logs")
	f.send(http.MethodPut, "/v1/procs/keeper", `{"topic":"r","offset":":2"}`).is(http.StatusCreated)
	f.clock.pass(100_000)
	f.post("/v1/gc", "").is(http.StatusOK).has("topics.0.collected", 3)
	all()
	f.send(http.MethodDelete, "/v1/procs/keeper", "").is(http.StatusOK)
	f.post("/v1/gc", "").is(http.StatusOK).has("topics.0.collected", 5)
	for _, path := range []string{"", "?start=:7", "?start=:8", "?start=0", "?direction=reverse"} {
		compare("/v1/topics/r/logs" + path)
	}
	for _, limit := range []string{"0", "-2", "x", "1.5", "", "9223372036854775808"} {
		f.sendWith(http.MethodGet, "/v1/topics/r/logs?limit="+limit, "", "Accept", ndjson).isProblem(http.StatusBadRequest, "invalid_request")
	}
}

// TestLinesHaveAFixedEnd commits while a range is being read: what is new is not in it.
func TestLinesHaveAFixedEnd(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.fill("t", 24)
	for _, direction := range []string{"forward", "reverse"} {
		committed := int(w.get("/v1/topics/t").num("committed"))
		in := bufio.NewReader(w.lines("/v1/topics/t/logs?direction=" + direction).Body)
		read := func() {
			t.Helper()
			if _, err := in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		read()
		w.commit("t", 3)
		for range committed - 1 {
			read()
		}
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("%s: %.100q %v after %d logs", direction, rest, err, committed)
		}
	}
}

// TestLinesBreakOff holds that a range that cannot go on breaks the connection, and that what came before is right.
func TestLinesBreakOff(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *service.Config) { c.GCMinPruneTime = 0 })
	w := wireTo(t, s)
	size := len(fmt.Sprintf(`{"id":%q,"body":%s}`+"\n", w.commit("t", 1)[0], megabyte))
	breaks := func(direction string, meanwhile func()) {
		t.Helper()
		const n = 24
		w.fill("t", n)
		resp := w.lines("/v1/topics/t/logs?direction=" + direction)
		in := bufio.NewReader(resp.Body)
		if _, err := in.Peek(1); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		got, err := io.ReadAll(in)
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(got) < size/2 || len(got) > (n-1)*size {
			t.Errorf("%s: %d bytes, %v", direction, len(got), err)
		}
		for line := range bytes.Lines(got) {
			if len(line) > size/2 && line[len(line)-1] == '\n' && !bytes.HasSuffix(line, []byte(`","body":`+megabyte+"}\n")) {
				t.Errorf("%s: a line is %.60s…", direction, line)
			}
		}
	}
	w.t.Run("GC", func(t *testing.T) {
		w := wireTo(t, s)
		for _, direction := range []string{"forward", "reverse"} {
			breaks(direction, func() { w.post("/v1/gc", "").is(http.StatusOK) })
			w.get("/v1/topics/t").is(http.StatusOK).has("length", 0)
		}
	})
	w.t.Run("the topic is deleted", func(t *testing.T) {
		w := wireTo(t, s)
		breaks("forward", func() {
			w.send(http.MethodDelete, "/v1/topics/t", "").isEmpty(http.StatusNoContent)
			w.fill("t", 1) // another one of that name
		})
	})
	w.t.Run("the client", func(t *testing.T) {
		w := wireTo(t, s)
		w.fill("u", 24)
		n := 0
		for _, err := range w.RangeLines(t.Context(), "u", client.RangeOptions{}) {
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				n = -n
				break
			}
			if n++; n == 1 {
				w.send(http.MethodDelete, "/v1/topics/u", "").isEmpty(http.StatusNoContent)
			}
		}
		if n > -1 || n < -23 {
			t.Errorf("it ended after %d logs, as if it were whole", n)
		}
	})
	w.t.Run("the server stops", func(t *testing.T) {
		breaks("reverse", s.Stop) // which does not wait for a client that does not read
	})
}

// TestSlowReadersOfLines holds that they hold nothing that others need: there are more of them than connections to the
// database.
func TestSlowReadersOfLines(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	w.fill("t", 24)
	const readers = 40
	slow := slowClient(t, s)
	for range readers {
		resp, err := slow.Do(t.Context(), http.MethodGet, "/v1/topics/t/logs", nil, http.Header{"Accept": {ndjson}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.StatusCode, err)
		}
	}
	begun := time.Now()
	for i := range 20 {
		id := w.commit("other", 1)[0]
		w.get("/v1/topics/other/logs?direction=reverse&limit=1").is(http.StatusOK).has("logs.0.id", id)
		w.ack("p", w.claim("p", `{"topic":"other"}`))
		if open := w.streamsOpen("range"); i == 0 && open != readers {
			t.Errorf("%d of %d readers are there", open, readers)
		}
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("others took %v", took)
	}
	got, err := io.ReadAll(w.lines("/v1/topics/t/logs").Body)
	if err != nil || len(got) < 24*api.MaxBodySize {
		t.Errorf("another reader: %d bytes, %v", len(got), err)
	}
	if testing.Short() {
		return
	}
	w.eventually("those who read nothing are cut off", func() bool { return w.streamsOpen("range") == 0 })
	if took := time.Since(begun); took < 5*time.Second || took > 30*time.Second {
		t.Errorf("after %v", took)
	}
}

// slowClient takes little that it does not read, and each request a connection of its own.
func slowClient(t *testing.T, s *server) *client.Client {
	t.Helper()
	return unchecked(t, s, &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		}
		return conn, err
	}})
}

// unchecked is a client whose answers are not held to the contract, which takes its time for large ones.
func unchecked(t *testing.T, s *server, transport *http.Transport) *client.Client {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(s.URL, client.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// streamsOpen is the number of streams of a kind that the server tells.
func (w procWire) streamsOpen(kind string) (n int) {
	w.t.Helper()
	for line := range strings.Lines(w.get("/metrics").is(http.StatusOK).Text) {
		if rest, ok := strings.CutPrefix(line, `pipeproc_streams_open{kind="`+kind+`"} `); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				w.t.Fatal(err)
			}
			return n
		}
	}
	w.t.Fatalf("no streams of kind %s are told of", kind)
	return 0
}

// TestFormsOfARange holds which form the Accept header gets, on the one route.
func TestFormsOfARange(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 2)
	const page, events = "application/json", "text/event-stream"
	for accept, want := range map[string]string{
		"": page, "*/*": page, page: page, ndjson: ndjson, events: events, "text/html": page, "text/html, */*;q=0.8": page,
		page + ", " + ndjson: page, ndjson + ", " + page + ";q=0.9": ndjson, events + ";q=0.5, " + ndjson + ";q=0.4": events,
		ndjson + ";q=0, " + events + ";q=0": page,
	} {
		resp := w.ask("/v1/topics/t/logs", accept)
		head := w.sendWith(http.MethodHead, "/v1/topics/t/logs", "", "Accept", accept).isEmpty(http.StatusOK)
		for what, h := range map[string]http.Header{"GET": resp.Header, "HEAD": head.Header} {
			if got := h.Get("Content-Type"); got != want {
				t.Errorf("%s %q: %s, want %s", what, accept, got, want)
			}
			if h.Get("Vary") != "Accept" || h.Get("Cache-Control") != "no-store" {
				t.Errorf("%s %q: %v", what, accept, h)
			}
		}
		resp.Body.Close()
	}

	// The tail is the one of /v1/tail.
	ids := w.commit("e", 3)
	s := w.stream("/v1/topics/e/logs?start=earliest", "")
	cursor := s.log("e", ids[0]).ID
	s.log("e", ids[1])
	s.log("e", ids[2])
	w.stream("/v1/topics/e/logs?start=earliest", cursor).log("e", ids[1])
	w.stream("/v1/topics/e/logs?lastEventId="+cursor, "").log("e", ids[1])
	w.stream("/v1/tail?topic=e", cursor).log("e", ids[1])
	w.stream("/v1/topics/e/logs?start=:2", "").log("e", ids[2])
	latest, unborn := w.stream("/v1/topics/e/logs", ""), w.stream("/v1/topics/unborn/logs", "")
	latest.log("e", w.commit("e", 1)[0])
	unborn.log("unborn", w.commit("unborn", 1)[0])
	for _, tt := range []struct {
		path, lastID string
		status       int
		code         string
	}{
		{"e/logs?end=:1", "", 400, "invalid_request"},
		{"e/logs?limit=1", "", 400, "invalid_request"},
		{"e/logs?exclusive=true", "", 400, "invalid_request"},
		{"e/logs?direction=reverse", "", 400, "invalid_request"},
		{"e/logs?topic=e", "", 400, "invalid_request"},
		{"e/logs?start=x", "", 400, "invalid_range_offset"},
		{"e/logs?start=:4", "", 416, "invalid_tone_id_search"},
		{"unknown/logs?start=:4", "", 404, "invalid_topic"},
		{"e/logs", "x", 400, "invalid_request"},
		{"b.d/logs", "", 400, "invalid_topic_format"},
	} {
		w.noStream("/v1/topics/"+tt.path, tt.lastID).isProblem(tt.status, tt.code)
	}
	for _, accept := range []string{"", ndjson} {
		w.sendWith(http.MethodGet, "/v1/topics/e/logs?lastEventId="+cursor, "", "Accept", accept).isProblem(400, "invalid_request")
		w.sendWith(http.MethodGet, "/v1/topics/e/logs?start=earliest", "", "Accept", accept).isProblem(400, "invalid_range_offset")
	}
}

// TestHTTP10GetsNoLines holds that a client which could not tell a broken range from a whole one gets a page, and with it
// the next one's start.
func TestHTTP10GetsNoLines(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 1001)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/topics/t/logs HTTP/1.0\r\nAccept: %s\r\n\r\n", ndjson)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var page api.Page
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || len(page.Logs) != 1000 || page.Next == nil {
		t.Errorf("%d %v, %d logs, %v", resp.StatusCode, resp.Header, len(page.Logs), err)
	}
}

// TestLimitsOnStreams holds that streams of all kinds count together, and that what has ended, in whatever way, does not.
func TestLimitsOnStreams(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "e2e-*") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s.sock")
	for _, c := range []struct {
		limit   func(*service.Config)
		status  int
		code    string
		sockets bool // whether those who come through the socket are refused as well
	}{
		{func(c *service.Config) { c.MaxStreams = 3 }, http.StatusServiceUnavailable, "overloaded", true},
		{func(c *service.Config) { c.MaxStreamsPerAddress = 3 }, http.StatusTooManyRequests, "rate_limited", false},
	} {
		s := start(t, c.limit, func(c *service.Config) {
			c.GCMinPruneTime = 0
			c.Listen = append(c.Listen, "unix:"+socket)
		})
		w := wireTo(t, s)
		w.fill("t", 24)
		refused := func() {
			t.Helper()
			for _, path := range []string{"/v1/tail?topic=t", "/v1/topics/t/live", "/v1/topics/t/logs"} {
				a := w.noStream(path, "").isProblem(c.status, c.code)
				if a.Header.Get("Retry-After") == "" {
					t.Errorf("%s: when to come again is not told", a.what)
				}
			}
			w.sendWith(http.MethodGet, "/v1/topics/t/logs", "", "Accept", ndjson).isProblem(c.status, c.code)
			w.get("/v1/topics/t/logs?limit=1").is(http.StatusOK) // no stream
		}
		tail, live, lines := w.stream("/v1/tail?topic=t", ""), w.stream("/v1/topics/t/live", ""), w.lines("/v1/topics/t/logs")
		live.next("liveproc")
		refused()
		if n := len(w.get("/v1/procs?kind=live").list("procs")); n != 1 {
			t.Errorf("%d liveProcs: a refused stream made one", n)
		}
		local, err := client.New("unix:" + socket)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, err := local.Tail(t.Context(), client.TailOptions{Topics: []string{"t"}})
		if err == nil {
			defer elsewhere.Close()
		}
		if (client.StatusOf(err) == c.status) != c.sockets || (err != nil) != c.sockets {
			t.Errorf("through the socket: %v", err)
		}

		again := func(what string, kind string, open int) {
			t.Helper()
			w.eventually(what, func() bool { return w.streamsOpen(kind) == open })
			lines = w.lines("/v1/topics/t/logs")
			refused()
		}
		lines.Body.Close()
		again("the range that was left is counted out", "range", 0)
		w.post("/v1/gc", "").is(http.StatusOK)
		if _, err := io.ReadAll(lines.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		w.fill("t", 24)
		again("the range that was broken off is counted out", "range", 0)
		tail.close()
		w.eventually("the tail is counted out", func() bool { return w.streamsOpen("tail") == map[bool]int{true: 0, false: 1}[c.sockets] })
		w.stream("/v1/tail?topic=t", "")
		refused()
		live.close()
		again("the liveProc's stream is counted out", "liveproc", 0)
		lines.Body.Close()
		s.Stop()
	}
}

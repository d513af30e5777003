package e2e

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
	"pipeproc/cmd/server/service"
)

// rangeFixture is a topic "r" whose logs have known timestamps:
//
//	seq  0  1  2  3   4   5   6   7
//	ts   0  0  0  10  10  20  21  40   after the begin
type rangeFixture struct {
	procWire
	clock *wireClock
	begin int64
	ids   []string
}

func newRangeFixture(t *testing.T) *rangeFixture {
	t.Helper()
	f := &rangeFixture{procWire: wireTo(t, start(t, func(c *service.Config) { c.GCMinPruneTime = 1000 }))}
	f.clock = f.stopClock()
	f.begin = f.clock.Now
	for _, step := range []struct {
		pass int64
		logs int
	}{{0, 3}, {10, 2}, {10, 1}, {1, 1}, {19, 1}} {
		f.clock.pass(step.pass)
		f.ids = append(f.ids, f.commit("r", step.logs)...)
	}
	for i, ts := range []int64{0, 0, 0, 10, 10, 20, 21, 40} {
		if want := (api.ID{TS: f.begin + ts, Seq: int64(i)}); f.ids[i] != want.String() {
			t.Fatalf("log %d is %s, want %v", i, f.ids[i], want)
		}
	}
	return f
}

// bound writes a bound: "@2+5" is the id of seq 5 at ms 2, "2" the ms 2, ":5" the seq 5, "" none, "=x" is x as it is.
func (f *rangeFixture) bound(short string) string {
	var ms, seq int64
	switch {
	case short == "" || short[0] == ':':
		return short
	case short[0] == '=':
		return short[1:]
	case short[0] == '@':
		if _, err := fmt.Sscanf(short, "@%d+%d", &ms, &seq); err != nil {
			f.t.Fatal(short, err)
		}
		return api.ID{TS: f.begin + ms, Seq: seq}.String()
	}
	if _, err := fmt.Sscanf(short, "%d", &ms); err != nil {
		f.t.Fatal(short, err)
	}
	return fmt.Sprint(f.begin + ms)
}

// rng asks for a range; more is the rest of the query.
func (f *rangeFixture) rng(topic, start, end, more string) *wireAnswer {
	f.t.Helper()
	if start != "" {
		start = "start=" + url.QueryEscape(f.bound(start))
	}
	if end != "" {
		end = "end=" + url.QueryEscape(f.bound(end))
	}
	return f.get("/v1/topics/" + topic + "/logs?" + query(start, end, more))
}

const greatest = "9223372036854775807"

func TestRangeBounds(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	// Of a forward range: lower bound, upper bound, the run of seqs, the run with exclusive. "-" is nothing.
	for _, test := range []struct{ low, high, want, exclusive string }{
		{"", "", "0-7", "0-7"},
		// full ids: inclusive
		{"@0+0", "@40+7", "0-7", "1-6"},
		{"@0+1", "@10+3", "1-3", "2-2"},
		{"@0+1", "", "1-7", "2-7"},
		{"", "@0+1", "0-1", "0-0"},
		{"@10+4", "@10+4", "4-4", "-"},
		{"@0+2", "@10+3", "2-3", "-"},
		// ids that do not exist compare as (ts, seq)
		{"@5+0", "", "3-7", "3-7"},
		{"@10+0", "", "3-7", "3-7"},
		{"@10+4", "", "4-7", "5-7"},
		{"@10+5", "", "5-7", "5-7"},
		{"@10+99", "", "5-7", "5-7"},
		{"@0+99", "@10+0", "-", "-"},
		{"@0+99", "@10+3", "3-3", "-"},
		{"", "@5+0", "0-2", "0-2"},
		{"", "@5+99", "0-2", "0-2"},
		{"", "@10+99", "0-4", "0-4"},
		{"", "@10+3", "0-3", "0-2"},
		{"@-1+0", "", "0-7", "0-7"},
		{"", "@-1+99", "-", "-"},
		{"@41+0", "", "-", "-"},
		{"@40+8", "", "-", "-"},
		{"", "@99+99", "0-7", "0-7"},
		{"=0-0", "=" + greatest + "-" + greatest, "0-7", "0-7"},
		{"=" + greatest + "-" + greatest, "", "-", "-"},
		// timestamps: the lower bound the first log at or after, the upper bound the last at or before; never exclusive
		{"0", "40", "0-7", "0-7"},
		{"1", "39", "3-6", "3-6"},
		{"10", "10", "3-4", "3-4"},
		{"11", "20", "5-5", "5-5"},
		{"11", "19", "-", "-"},
		{"20", "21", "5-6", "5-6"},
		{"21", "", "6-7", "6-7"},
		{"", "9", "0-2", "0-2"},
		{"", "-1", "-", "-"},
		{"41", "", "-", "-"},
		{"=0", "=" + greatest, "0-7", "0-7"},
		{"=" + greatest, "", "-", "-"},
		// sequences
		{":0", ":7", "0-7", "1-6"},
		{":3", ":3", "3-3", "-"},
		{":2", ":4", "2-4", "3-3"},
		{":5", "", "5-7", "6-7"},
		{"", ":5", "0-5", "0-4"},
		{":7", "", "7-7", "-"},
		{"", ":0", "0-0", "-"},
		// any two forms
		{":1", "10", "1-4", "2-4"},
		{"10", ":6", "3-6", "3-5"},
		{"@0+1", ":5", "1-5", "2-4"},
		{":1", "@20+5", "1-5", "2-4"},
		{"@0+2", "20", "2-5", "3-5"},
		{"1", "@21+6", "3-6", "3-5"},
		// start > end
		{":4", ":3", "-", "-"},
		{"@10+4", "@10+3", "-", "-"},
		{"20", "10", "-", "-"},
		{":7", "0", "-", "-"},
	} {
		for _, exclusive := range []string{"", "exclusive=false", "exclusive=true"} {
			want := test.want
			if exclusive == "exclusive=true" {
				want = test.exclusive
			}
			ids := []string{}
			if want != "-" {
				var first, last int
				if _, err := fmt.Sscanf(want, "%d-%d", &first, &last); err != nil {
					t.Fatal(err)
				}
				ids = slices.Clone(f.ids[first : last+1])
			}
			forward := f.rng("r", test.low, test.high, exclusive).is(200).hasExactly("", "logs")
			if diff := cmp.Diff(ids, forward.ids("logs")); diff != "" {
				t.Errorf("[%s, %s] %s (-want +got):\n%s", test.low, test.high, exclusive, diff)
			}
			f.rng("r", test.low, test.high, query(exclusive, "direction=forward")).tellsAs(forward)
			// revrange: start and end are inverted, as is the order.
			slices.Reverse(ids)
			reverse := f.rng("r", test.high, test.low, query(exclusive, "direction=reverse")).is(200).hasExactly("", "logs")
			if diff := cmp.Diff(ids, reverse.ids("logs")); diff != "" {
				t.Errorf("reverse [%s, %s] %s (-want +got):\n%s", test.high, test.low, exclusive, diff)
			}
		}
	}
}

// query joins the parts of a query that are given.
func query(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "&")
}

func TestRangeRefusals(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	for _, bad := range []string{":", ":-1", ":+1", ":1.0", ":x", ":1-1", "-", "1-", "-1", "-1-0", "1--1", "1-2-3", "+1", "%2B1", "1%2B1", "1.5",
		"1e3", "0x10", "abc", ">", "%24%3E", "earliest", "latest", "", "%20", "1%20", "%201", "9223372036854775808",
		":9223372036854775808", "9223372036854775808-0", "0-9223372036854775808", strings.Repeat("9", 100), "%00", "%FF", "１"} {
		f.get("/v1/topics/r/logs?start="+bad).isProblem(400, "invalid_range_offset")
		f.get("/v1/topics/r/logs?end="+bad).isProblem(400, "invalid_range_offset")
		f.get("/v1/topics/r/logs?direction=reverse&exclusive=true&end="+bad).isProblem(400, "invalid_range_offset")
	}
	// A :seq at or beyond the head, as either bound, in both directions, exclusive or not.
	for _, beyond := range []string{":8", ":9", ":" + greatest} {
		for _, more := range []string{"", "exclusive=true", "direction=reverse", "direction=reverse&exclusive=true"} {
			f.rng("r", beyond, "", more).isProblem(416, "invalid_tone_id_search")
			f.rng("r", "", beyond, more).isProblem(416, "invalid_tone_id_search")
			f.rng("r", ":0", beyond, more).isProblem(416, "invalid_tone_id_search")
			f.rng("r", beyond, ":0", more).isProblem(416, "invalid_tone_id_search")
		}
	}
	for _, bad := range []string{"limit=0", "limit=-2", "limit=10001", "limit=1.5", "limit=", "limit=x", "limit=1e2", "limit=%2B1",
		"limit=9223372036854775808", "exclusive=1", "exclusive=", "exclusive=True", "exclusive=yes", "direction=", "direction=up",
		"direction=Reverse", "limit=1&limit=1", "start=:0&start=:0", "nope=1", "Limit=1", "start=:0;end=:1", "%zz=1"} {
		f.get("/v1/topics/r/logs?"+bad).isProblem(400, "invalid_request")
	}
	f.rng("unknown", "", "", "").isProblem(404, "invalid_topic")
	f.rng("unknown", ":5", "", "").isProblem(404, "invalid_topic")
	f.get("/v1/topics/b.d/logs").isProblem(400, "invalid_topic_format")
	// Only reserved, so unknown.
	f.send("PUT", "/v1/procs/p", `{"topic":"reserved"}`).is(201)
	f.rng("reserved", "", "", "").isProblem(404, "invalid_topic")
}

func TestRangeLimit(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 1001)
	for _, query := range []string{"", "?limit=-1", "?limit=1000"} {
		a := w.get("/v1/topics/t/logs"+query).is(200).hasExactly("", "logs", "next").hasSeqs("logs", 0, 999)
		if id := idAt(a, "next"); id.Seq != 1000 {
			t.Errorf("%q: next is %v", query, id)
		}
	}
	w.get("/v1/topics/t/logs?limit=10000").is(200).hasExactly("", "logs").hasSeqs("logs", 0, 1000)
	w.get("/v1/topics/t/logs?limit=1001").is(200).hasExactly("", "logs")
	w.get("/v1/topics/t/logs?limit=1").is(200).hasExactly("", "logs", "next").hasSeqs("logs", 0, 0)
	w.get("/v1/topics/t/logs?limit=1&direction=reverse").is(200).hasExactly("", "logs", "next").hasSeqs("logs", 1000, 1000)
}

// next leads through a range in each of the four combinations: nothing is left out, nothing comes twice.
func TestRangeNext(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	for _, bounds := range [][2]string{{"", ""}, {"@0+1", "@21+6"}, {":1", ":6"}, {"10", "20"}, {"@0+99", ":7"}, {"", ":4"}, {"@5+5", ""}} {
		for _, exclusive := range []string{"", "exclusive=true"} {
			for _, direction := range []string{"", "direction=reverse"} {
				low, high := bounds[0], bounds[1]
				if direction != "" {
					low, high = high, low
				}
				whole := f.rng("r", low, high, query(exclusive, direction)).is(200).ids("logs")
				for limit := 1; limit <= len(whole)+1; limit++ {
					more := query(exclusive, direction, fmt.Sprintf("limit=%d", limit))
					walked, start := []string{}, low
					for {
						page := f.rng("r", start, high, more).is(200)
						got := page.ids("logs")
						walked = append(walked, got...)
						if len(walked) >= len(whole) {
							page.hasExactly("", "logs") // absent when nothing follows
							break
						}
						if len(got) != limit {
							t.Fatalf("%v %s: a page of %d logs with next", bounds, more, len(got))
						}
						next := page.hasExactly("", "logs", "next").str("next")
						// The first id of the next page, or with exclusive the last one of this page.
						want := whole[len(walked)]
						if exclusive != "" {
							want = whole[len(walked)-1]
						}
						if next != want {
							t.Fatalf("%v %s: next is %s, want %s", bounds, more, next, want)
						}
						start = "=" + next
					}
					if diff := cmp.Diff(whole, walked); diff != "" {
						t.Errorf("%v %s (-whole +walked):\n%s", bounds, more, diff)
					}
				}
			}
		}
	}
}

func TestOneLog(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	for seq, id := range f.ids {
		for _, path := range []string{id, fmt.Sprintf(":%d", seq), fmt.Sprintf("%%3A%d", seq)} {
			a := f.get("/v1/topics/r/logs/"+path).is(200).hasExactly("", "id", "body")
			if a.str("id") != id {
				t.Errorf("%s is %s", path, a.Text)
			}
		}
	}
	for _, absent := range []string{f.bound("@1+0"), f.bound("@0+3"), f.bound("@40+8"), f.bound("@10+0"), "0-0", ":8", ":" + greatest,
		greatest + "-" + greatest} {
		f.get("/v1/topics/r/logs/"+absent).isProblem(404, "log_not_found")
	}
	for _, bad := range []string{f.bound("10"), "x", ":", ":x", "1-", "-1", "%20", "9223372036854775808-0", ":9223372036854775808"} {
		f.get("/v1/topics/r/logs/"+bad).isProblem(400, "invalid_range_offset")
	}
	f.get("/v1/topics/unknown/logs/:0").isProblem(404, "invalid_topic")
}

func TestRangeAfterGC(t *testing.T) {
	t.Parallel()
	f := newRangeFixture(t)
	// A proc that starts after seq 2 keeps what follows, so GC takes 0 to 2.
	f.send("PUT", "/v1/procs/keeper", `{"topic":"r","offset":":2"}`).is(201)
	f.clock.pass(959) // the oldest is 999 ms old
	f.post("/v1/gc", "").is(200).has("topics.0.collected", 0)
	f.clock.pass(100_000)
	f.post("/v1/gc", "").is(200).hasExactly("", "topics").hasExactly("topics.0", "topic", "collected", "firstId").
		has("topics.0.topic", "r").has("topics.0.collected", 3).has("topics.0.firstId", f.ids[3])
	f.get("/v1/topics/r").is(200).has("length", 5).has("committed", 8).has("firstId", f.ids[3]).has("lastId", f.ids[7])

	directions := []string{"", "exclusive=true", "direction=reverse", "direction=reverse&exclusive=true"}
	for _, gone := range []string{":0", ":2", "@0+0", "@0+2", "@0+3", "@5+0", "@10+2", "=0-0"} {
		for _, more := range directions {
			f.rng("r", gone, "", more).isProblem(410, "collected", "firstId").has("firstId", f.ids[3])
			f.rng("r", "", gone, more).isProblem(410, "collected", "firstId").has("firstId", f.ids[3])
			f.rng("r", ":7", gone, more).isProblem(410, "collected", "firstId")
		}
		f.get("/v1/topics/r/logs/"+f.bound(gone)).isProblem(410, "collected", "firstId").has("firstId", f.ids[3])
	}
	// A timestamp means: from the first retained log.
	for _, ts := range []string{"0", "5", "10", "=0"} {
		f.rng("r", ts, "", "").is(200).hasSeqs("logs", 3, 7)
		f.rng("r", ts, "", "exclusive=true").is(200).hasSeqs("logs", 3, 7)
	}
	f.rng("r", "", "5", "").is(200).hasSeqs("logs", 0, -1)
	f.rng("r", "", "", "").is(200).hasSeqs("logs", 3, 7)
	f.rng("r", ":3", ":5", "").is(200).hasSeqs("logs", 3, 5)
	f.rng("r", "@10+3", "", "exclusive=true").is(200).hasSeqs("logs", 4, 7)
	f.rng("r", ":8", "", "").isProblem(416, "invalid_tone_id_search")
	f.get("/v1/topics/r/logs/:3").is(200).has("id", f.ids[3])

	// Nor can a systemProc start there.
	f.post("/v1/system-procs", `{"name":"late","from":"r","offset":":0","processor":"http://127.0.0.1:1/"}`).
		isProblem(410, "collected", "firstId").has("firstId", f.ids[3])
	f.post("/v1/system-procs", `{"name":"list","from":["other"],"offset":":0","processor":"http://127.0.0.1:1/"}`).is(201)
	f.send("PATCH", "/v1/system-procs/list", `{"from":["other","r"],"count":7}`).isProblem(410, "collected", "firstId").has("firstId", f.ids[3])
	f.get("/v1/procs").is(200).has("procs.0.name", "keeper").has("procs.1.name", "list__other").has("procs.1.count", 1)
	if n := len(f.get("/v1/procs").list("procs")); n != 2 {
		t.Errorf("%d procs, the refused ones included", n)
	}

	// Nothing is left: firstId is null, also of the topic, and all that is known of the logs is their number.
	f.send("DELETE", "/v1/procs/keeper", "").is(200)
	f.post("/v1/gc", "").is(200).has("topics.0.collected", 5).has("topics.0.firstId", nil)
	f.get("/v1/topics/r").is(200).has("length", 0).has("committed", 8).has("firstId", nil).has("lastId", nil)
	for _, more := range directions {
		for _, gone := range []string{":0", ":7", "@0+0", "@40+7"} {
			f.rng("r", gone, "", more).isProblem(410, "collected", "firstId").has("firstId", nil)
			f.rng("r", "", gone, more).isProblem(410, "collected", "firstId").has("firstId", nil)
		}
		f.rng("r", "", "", more).is(200).hasExactly("", "logs").hasSeqs("logs", 0, -1)
		f.rng("r", "0", "", more).is(200).hasSeqs("logs", 0, -1)
		f.rng("r", ":8", "", more).isProblem(416, "invalid_tone_id_search")
	}
	f.get("/v1/topics/r/logs/"+f.ids[7]).isProblem(410, "collected", "firstId").has("firstId", nil)
	f.get("/v1/topics/r/logs/:8").isProblem(404, "log_not_found")
	// Seqs go on.
	f.commit("r", 1)
	f.rng("r", "", "", "").is(200).hasSeqs("logs", 8, 8)
}

// A page ends at 8 MiB of bodies, with at least one log; next leads on.
func TestRangePagesEndAt8MiB(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	body := `["` + strings.Repeat("x", 1<<20-4) + `"]` // 1 MiB
	log := `{"topic":"t","body":` + body + `}`
	w.post("/v1/commit", "["+strings.Join(slices.Repeat([]string{log}, 10), ",")+"]").is(201)
	w.post("/v1/topics/t/logs", `{}`).is(201)
	first := w.get("/v1/topics/t/logs?limit=10000").is(200).hasExactly("", "logs", "next").hasSeqs("logs", 0, 7)
	w.get("/v1/topics/t/logs?limit=10000&start="+first.str("next")).is(200).hasExactly("", "logs").hasSeqs("logs", 8, 10)

	first = w.get("/v1/topics/t/logs?direction=reverse&exclusive=true&start=:10").is(200).hasExactly("", "logs", "next")
	rest := w.get("/v1/topics/t/logs?direction=reverse&exclusive=true&start="+first.str("next")).is(200).hasExactly("", "logs")
	if diff := cmp.Diff([]int64{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, append(first.seqs("logs"), rest.seqs("logs")...)); diff != "" || len(rest.seqs("logs")) != 2 {
		t.Errorf("in reverse, the second page has %d logs (-want +got):\n%s", len(rest.seqs("logs")), diff)
	}
}

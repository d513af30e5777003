package e2e

import (
	"fmt"
	"net/http"
	"testing"
)

// TestOffsets resolves every form of offset in a topic of five logs: 0 and 1 at time t, 2 and 3 at t+1000, 4 at t+2000;
// it is t+3000. A sixth log is committed after the proc's creation, before its first claim.
func TestOffsets(t *testing.T) {
	t.Parallel()
	s := start(t)
	setup := wireTo(t, s)
	clock := setup.stopClock()
	at := clock.Now
	commit := func(n int, topics ...string) {
		for _, topic := range topics {
			setup.commit(topic, n)
		}
	}
	id := func(after, seq int64) string { return fmt.Sprintf("%d-%d", at+after, seq) }
	ts := func(after int64) string { return fmt.Sprint(at + after) }

	resolved := []struct {
		offset string // as JSON; "" leaves the member out
		first  int64  // the first log handed out
	}{
		{``, 0}, {`null`, 0}, {`">"`, 0}, {`"earliest"`, 0},
		{`"$>"`, 5}, {`"latest"`, 5},
		{`":0"`, 1}, {`":3"`, 4}, {`":4"`, 5}, {`":5"`, 6}, {`":9"`, 10}, {`":9223372036854775806"`, 1<<63 - 1},
		{`"` + id(0, 0) + `"`, 1}, {`"` + id(0, 1) + `"`, 2}, {`"` + id(2000, 4) + `"`, 5},
		// Ids that do not exist.
		{`"` + id(-1, 99) + `"`, 0}, {`"` + id(0, 99) + `"`, 2}, {`"` + id(1, 0) + `"`, 2}, {`"` + id(1000, 0) + `"`, 2}, {`"` + id(1000, 9) + `"`, 4},
		{`"` + id(1999, 3) + `"`, 4}, {`"` + id(2000, 9) + `"`, 5}, {`"` + id(9000, 0) + `"`, 5}, {`"0-0"`, 0},
		{`"9223372036854775807-9223372036854775807"`, 5},
		{`"` + ts(0) + `"`, 0}, {`"` + ts(-5) + `"`, 0}, {`"0"`, 0}, {`"` + ts(1) + `"`, 2}, {`"` + ts(1000) + `"`, 2}, {`"` + ts(1001) + `"`, 4},
		{`"` + ts(2000) + `"`, 4}, {`"` + ts(2001) + `"`, 5}, {`"` + ts(3000) + `"`, 5},
	}
	refused := []struct{ offset, code string }{
		{`"` + ts(3001) + `"`, "invalid_range_offset"}, {`"9223372036854775807"`, "invalid_range_offset"},
		{`":9223372036854775808"`, "invalid_range_offset"}, {`"9223372036854775808"`, "invalid_range_offset"},
		{`"1-9223372036854775808"`, "invalid_range_offset"}, {`""`, "invalid_range_offset"}, {`":"`, "invalid_range_offset"},
		{`"-"`, "invalid_range_offset"}, {`"1-"`, "invalid_range_offset"}, {`"-1"`, "invalid_range_offset"}, {`":-1"`, "invalid_range_offset"},
		{`"1-2-3"`, "invalid_range_offset"}, {`"+1"`, "invalid_range_offset"}, {`" 1"`, "invalid_range_offset"}, {`"x"`, "invalid_range_offset"},
		{`"1e3"`, "invalid_range_offset"}, {`"<"`, "invalid_range_offset"}, {`"$"`, "invalid_range_offset"}, {`">$"`, "invalid_range_offset"},
		{`"Latest"`, "invalid_range_offset"}, {`"१"`, "invalid_range_offset"},
		{`5`, "invalid_request"}, {`[">"]`, "invalid_request"},
	}
	topics := []string{"put", "claimed", "any", "seek"}
	commit(2, topics...)
	clock.pass(1000)
	commit(2, topics...)
	clock.pass(1000)
	commit(1, topics...)
	clock.pass(1000)

	member := func(offset string) string {
		if offset == "" {
			return ""
		}
		return `,"offset":` + offset
	}
	// Each way of making a proc on its topic; the answer is to be 201, 200 or 204.
	ways := map[string]func(w procWire, name, offset string) *wireAnswer{
		"put": func(w procWire, name, offset string) *wireAnswer {
			return w.send(http.MethodPut, "/v1/procs/"+name, `{"topic":"put"`+member(offset)+`}`)
		},
		"claimed": func(w procWire, name, offset string) *wireAnswer {
			return w.post("/v1/procs/"+name+"/claim", `{"topic":"claimed","count":10000`+member(offset)+`}`)
		},
		"any": func(w procWire, name, offset string) *wireAnswer {
			return w.post("/v1/claims", `{"procs":[{"name":"`+name+`","topic":"any","count":10000`+member(offset)+`}]}`)
		},
		"seek": func(w procWire, name, offset string) *wireAnswer {
			w.send(http.MethodPut, "/v1/procs/"+name, `{"topic":"seek","offset":":2"}`)
			if offset == "" || offset == "null" {
				offset = `">"`
			}
			return w.post("/v1/procs/"+name+"/seek", `{"offset":`+offset+`}`)
		},
	}
	for topic, prepare := range ways {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := wireTo(t, s)
			refused, resolved := refused, resolved
			if topic == "claimed" || topic == "any" { // which create as put does: some will do
				refused, resolved = everyFourth(refused), everyFourth(resolved)
			}
			for i, tt := range refused {
				name := fmt.Sprintf("%s-refused%d", topic, i)
				prepare(w, name, tt.offset).isProblem(http.StatusBadRequest, tt.code)
				if topic == "seek" {
					w.proc(name).has("lag", 2)
				} else {
					w.get("/v1/procs/"+name).isProblem(http.StatusNotFound, "invalid_proc")
				}
			}
			for i, tt := range resolved {
				a := prepare(w, fmt.Sprintf("%s%d", topic, i), tt.offset)
				lag := max(0, 5-tt.first)
				w.proc(fmt.Sprintf("%s%d", topic, i)).has("lag", lag)
				if topic == "put" || topic == "seek" {
					a.has("lag", lag)
				} else if lag == 0 {
					a.isEmpty(http.StatusNoContent)
				} else {
					a.is(http.StatusOK).hasSeqs("logs", tt.first, 4)
				}
			}
			w.commit(topic, 1) // resolved once, at creation
			for i, tt := range resolved {
				name := fmt.Sprintf("%s%d", topic, i)
				first := tt.first
				if w.proc(name).at("claim") != nil {
					w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK)
					first = 5
				}
				a := w.post("/v1/procs/"+name+"/claim", `{"count":10000}`)
				if first > 5 {
					a.isEmpty(http.StatusNoContent)
				} else if a.is(http.StatusOK); len(a.list("logs")) == 0 {
					t.Errorf("%s: %s", name, a.Text)
				} else {
					a.hasSeqs("logs", first, 5)
				}
			}
		})
	}

	t.Run("as told", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		for i, offset := range []string{">", "$>", ":7", id(0, 0), ts(0)} {
			w.send(http.MethodPut, fmt.Sprintf("/v1/procs/told%d", i), `{"topic":"told","offset":"`+offset+`"}`).is(http.StatusCreated).has("offset", offset)
		}
	})

	t.Run("beyond the head", func(t *testing.T) {
		t.Parallel()
		w := wireTo(t, s)
		w.send(http.MethodPut, "/v1/procs/beyond", `{"topic":"beyond","offset":":2","count":10}`).is(http.StatusCreated)
		w.commit("beyond", 3)
		w.post("/v1/procs/beyond/claim", "").isEmpty(http.StatusNoContent)
		w.proc("beyond").has("lag", 0)
		w.commit("beyond", 2)
		w.claim("beyond", "").hasSeqs("logs", 3, 4)
	})
}

func everyFourth[T any](list []T) (some []T) {
	for i := 0; i < len(list); i += 4 {
		some = append(some, list[i])
	}
	return some
}

// TestReservedTopicOfProcs holds that a proc on a topic that does not exist reserves its name.
func TestReservedTopicOfProcs(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	offsets := map[string]int64{">": 0, "$>": 0, "latest": 0, "0": 0, "0-0": 0, ":0": 1}
	for offset := range offsets {
		name := fmt.Sprintf("p%x", offset)
		w.send(http.MethodPut, "/v1/procs/"+name, `{"topic":"a","count":10,"offset":"`+offset+`"}`).is(http.StatusCreated).has("lag", 0)
		w.post("/v1/procs/"+name+"/claim", "").isEmpty(http.StatusNoContent)
		w.get("/v1/topics/a").isProblem(http.StatusNotFound, "invalid_topic")
		w.get("/v1/topics/a/logs").isProblem(http.StatusNotFound, "invalid_topic")
		w.get("/v1/topics/a/logs/:0").isProblem(http.StatusNotFound, "invalid_topic")
		w.send(http.MethodDelete, "/v1/topics/a", "").isProblem(http.StatusNotFound, "invalid_topic")
		w.get("/v1/topics").is(http.StatusOK).hasExactly("", "topics").hasSeqs("topics", 0, -1)
		w.post("/v1/gc", "").is(http.StatusOK).hasSeqs("topics", 0, -1)
	}
	w.commit("a", 2)
	w.get("/v1/topics/a").is(http.StatusOK).has("length", 2)
	for offset, first := range offsets {
		w.claim(fmt.Sprintf("p%x", offset), "").hasSeqs("logs", first, 1)
	}

	w.send(http.MethodPut, "/v1/procs/only", `{"topic":"b"}`).is(http.StatusCreated)
	w.send(http.MethodDelete, "/v1/procs/only", "").is(http.StatusOK).has("topic", "b")
	w.get("/v1/topics/b").isProblem(http.StatusNotFound, "invalid_topic")
	w.commit("b", 1)
	w.send(http.MethodPut, "/v1/procs/only", `{"topic":"b","offset":"$>"}`).is(http.StatusCreated)
	w.post("/v1/procs/only/claim", "").isEmpty(http.StatusNoContent)
}

// TestOffsetsAfterGC holds that a start that GC has taken is refused.
func TestOffsetsAfterGC(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	clock := w.stopClock()
	gone := w.commit("a", 3)
	w.commit("empty", 2)
	clock.pass(40_000)
	kept := w.commit("a", 2)
	w.post("/v1/gc", "").is(http.StatusOK)
	w.get("/v1/topics/a").has("firstId", kept[0]).has("length", 2)
	w.get("/v1/topics/empty").has("firstId", nil).has("lastId", nil).has("length", 0).has("committed", 2)

	for i, tt := range []struct {
		topic, offset string
		first         int64 // -1: collected
	}{
		{"a", ">", 3}, {"a", "$>", 5}, {"a", ":0", -1}, {"a", ":1", -1}, {"a", ":2", 3}, {"a", ":3", 4}, {"a", ":9", 10},
		{"a", gone[0], -1}, {"a", gone[1], -1}, {"a", gone[2], 3}, {"a", kept[0], 4}, {"a", kept[1], 5}, {"a", "0-0", -1},
		{"a", fmt.Sprint(clock.Now), 3}, {"a", fmt.Sprint(clock.Now - 1), 3},
		{"empty", ">", 2}, {"empty", "$>", 2}, {"empty", ":0", -1}, {"empty", ":1", 2}, {"empty", ":5", 6},
	} {
		name := fmt.Sprintf("p%d", i)
		w.send(http.MethodPut, "/v1/procs/seek-"+name, `{"topic":"`+tt.topic+`","count":10}`).is(http.StatusCreated)
		body := fmt.Sprintf(`{"topic":%q,"offset":%q,"count":10}`, tt.topic, tt.offset)
		put := w.send(http.MethodPut, "/v1/procs/"+name, body)
		seek := w.post("/v1/procs/seek-"+name+"/seek", `{"offset":"`+tt.offset+`"}`)
		if tt.first < 0 {
			claim := w.post("/v1/procs/"+name+"/claim", body)
			available := w.post("/v1/claims", fmt.Sprintf(`{"procs":[{"name":%q,"topic":%q,"offset":%q}]}`, name, tt.topic, tt.offset))
			var firstID any
			if tt.topic == "a" {
				firstID = kept[0]
			}
			for _, a := range []*wireAnswer{put, seek, claim, available} {
				a.isProblem(http.StatusGone, "collected", "firstId").has("firstId", firstID)
			}
			w.get("/v1/procs/"+name).isProblem(http.StatusNotFound, "invalid_proc")
			continue
		}
		put.is(http.StatusCreated)
		seek.is(http.StatusOK)
		head := int64(5)
		if tt.topic == "empty" {
			head = 2
		}
		for _, name := range []string{name, "seek-" + name} {
			w.proc(name).has("lag", max(0, head-tt.first))
			if a := w.post("/v1/procs/"+name+"/claim", ""); tt.first >= head {
				a.isEmpty(http.StatusNoContent)
			} else {
				a.is(http.StatusOK).hasSeqs("logs", tt.first, head-1)
			}
		}
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/pgstore/pgtest"
)

var logID = regexp.MustCompile(`^[0-9]+-[0-9]+$`)

// idAt is the id of a member of a's JSON, read.
func idAt(a *wireAnswer, path string) api.ID {
	a.t.Helper()
	text := a.str(path)
	id, err := api.ParseID(text)
	if err != nil || !logID.MatchString(text) {
		a.t.Fatalf("%s: %q is no log id", a.what, text)
	}
	return id
}

func TestCommitAnswers(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))

	one := w.post("/v1/commit", `{"topic":"one","body":{"a":1}}`).is(201).hasExactly("", "id")
	if id := idAt(one, "id"); id.Seq != 0 || time.Since(time.UnixMilli(id.TS)).Abs() > time.Minute {
		t.Errorf("the first id is %v", id)
	}
	list := w.post("/v1/commit", `[{"topic":"one","body":{}},{"topic":"two","body":[]},{"body":[{}],"topic":"one"}]`).is(201).
		hasExactly("", "ids")
	var seqs []int64
	for i := range list.list("ids") {
		id := idAt(list, "ids."+strconv.Itoa(i))
		seqs = append(seqs, id.Seq)
		if id.TS != idAt(list, "ids.0").TS {
			t.Errorf("the logs of one commit have several timestamps: %s", list.Text)
		}
	}
	if diff := cmp.Diff([]int64{1, 0, 2}, seqs); diff != "" {
		t.Errorf("seqs of a list (-want +got):\n%s", diff)
	}
	single := w.post("/v1/commit", `[{"topic":"one","body":{}}]`).is(201).hasExactly("", "ids")
	if n := len(single.list("ids")); n != 1 {
		t.Errorf("a list of one log has %d ids", n)
	}

	for i, body := range []string{`{"n":1}`, ` [ 1, 2 ] `, `{}`, `[]`, `[{"topic":"one","body":{}}]`} {
		a := w.post("/v1/topics/curl/logs", body).is(201).hasExactly("", "id")
		id := idAt(a, "id")
		if id.Seq != int64(i) {
			t.Errorf("%s is log %v: the request's body is the one log's", body, id)
		}
		location := a.Header.Get("Location")
		if want := "/v1/topics/curl/logs/" + id.String(); location != want {
			t.Errorf("Location is %q, want %q", location, want)
		}
		w.get(location).is(200).hasExactly("", "id", "body").has("id", id.String())
	}
	w.get("/v1/topics/curl").is(200).has("length", 5).has("committed", 5)
	w.get("/v1/topics/one").is(200).has("length", 4)
	w.get("/v1/topics/two").is(200).has("length", 1)
}

// The limits themselves are allowed.
func TestCommitOfMostLogsAndBytes(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	logs := slices.Repeat([]string{`{"topic":"many","body":{}}`}, 10_000)
	ids := w.post("/v1/commit", "["+strings.Join(logs, ",")+"]").is(201).strs("ids")
	if len(ids) != 10_000 || !strings.HasSuffix(ids[9_999], "-9999") {
		t.Errorf("%d ids, the last %s", len(ids), ids[len(ids)-1])
	}
	mebibyte := `["` + strings.Repeat("x", 1<<20-4) + `"]`
	w.post("/v1/topics/large/logs", mebibyte).is(201)
	w.post("/v1/topics/large/logs", "  "+mebibyte+"\n").is(201) // as compacted JSON
	if got := w.get("/v1/topics/large/logs/:1").is(200); !strings.HasSuffix(got.Text, `"body":`+mebibyte+"}\n") {
		t.Errorf("a body of 1 MiB came back in %d bytes", len(got.Text))
	}
	log := `{"topic":"large","body":{}}`
	w.post("/v1/commit", log+strings.Repeat(" ", 16<<20-len(log))).is(201) // a request of 16 MiB
	deep := strings.Repeat("[", 128) + strings.Repeat("]", 128)
	w.post("/v1/topics/deep/logs", deep).is(201)
	w.post("/v1/commit", `{"topic":"deep","body":`+deep+`}`).is(201)
	w.post("/v1/commit", `[{"topic":"deep","body":`+deep+`}]`).is(201)
	w.post("/v1/commit", `[{"topic":"`+strings.Repeat("a", 128)+`","body":{}}]`).is(201)
	w.post("/v1/commit", `[{"topic":"AZaz09_-","body":{}}]`).is(201)
}

// All logs of a commit have the database's time, or the last timestamp of any topic that the commit touches, if that is
// greater.
func TestTimestampsNeverDecrease(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	clock := w.stopClock()
	commit := func(topics ...string) (ts int64) {
		t.Helper()
		logs := make([]string, len(topics))
		for i, topic := range topics {
			logs[i] = `{"topic":"` + topic + `","body":{}}`
		}
		a := w.post("/v1/commit", "["+strings.Join(logs, ",")+"]").is(201)
		ts = idAt(a, "ids.0").TS
		for i := range topics {
			if id := idAt(a, "ids."+strconv.Itoa(i)); id.TS != ts {
				t.Errorf("%v: several timestamps: %s", topics, a.Text)
			}
		}
		return ts
	}
	begun := clock.Now
	if ts := commit("ahead"); ts != begun {
		t.Errorf("the timestamp is %d at %d", ts, begun)
	}
	clock.pass(-5_000) // the clock was set back
	if ts := commit("other"); ts != begun-5_000 {
		t.Errorf("the timestamp of another topic is %d at %d", ts, begun-5_000)
	}
	if ts := commit("ahead"); ts != begun {
		t.Errorf("the timestamp went from %d to %d", begun, ts)
	}
	if ts := commit("new", "other", "ahead"); ts != begun {
		t.Errorf("a commit to several topics is at %d, one of them at %d", ts, begun)
	}
	if ts := commit("new"); ts != begun { // it has learned the later time
		t.Errorf("the timestamp went from %d to %d", begun, ts)
	}
	clock.pass(5_001)
	if ts := commit("ahead", "new"); ts != begun+1 {
		t.Errorf("the timestamp is %d at %d", ts, begun+1)
	}
}

// Promises 2, 3 and 4, under concurrent commits and readers.
func TestConcurrentCommits(t *testing.T) {
	t.Parallel()
	s := start(t)
	second := startOn(t, s.Database)
	ctx := t.Context()
	const writers, commits = 8, 12
	var done atomic.Bool
	var readers, all errgroup.Group
	readers.Go(func() error { // one answer is one instant: both topics of a commit, or none
		for !done.Load() {
			list, err := second.Topics(ctx, client.ListOptions{})
			if err != nil {
				return err
			}
			committed := map[string]int64{}
			for _, topic := range list.Topics {
				committed[topic.Name] = topic.Committed
			}
			if committed["left"] != committed["right"] {
				return fmt.Errorf("half a commit is seen: %v", committed)
			}
		}
		return nil
	})
	for _, at := range []*server{s, second} {
		readers.Go(func() error { // whoever has seen seq n could have seen every seq below it
			var seen []api.Log
			for len(seen) < writers*commits {
				page, err := at.Range(ctx, "left", client.RangeOptions{})
				if api.CodeOf(err) == api.CodeInvalidTopic {
					continue
				}
				if err != nil {
					return err
				}
				for i, log := range page.Logs {
					switch {
					case log.ID.Seq != int64(i):
						return fmt.Errorf("log %d is %v: a hole", i, log.ID)
					case i > 0 && page.Logs[i-1].ID.TS > log.ID.TS:
						return fmt.Errorf("%v comes after %v", log.ID, page.Logs[i-1].ID)
					case i < len(seen) && string(seen[i].Body) != string(log.Body):
						return fmt.Errorf("log %d was %s, now it is %s", i, seen[i].Body, log.Body)
					}
				}
				if len(page.Logs) < len(seen) {
					return fmt.Errorf("%d logs were seen, now there are %d", len(seen), len(page.Logs))
				}
				seen = page.Logs
			}
			return nil
		})
	}
	for i := range writers {
		all.Go(func() error {
			at := []*server{s, second}[i%2]
			for n := range commits {
				logs := []api.NewLog{{Topic: "left", Body: fmt.Appendf(nil, `{"writer":%d,"n":%d}`, i, n)},
					{Topic: "right", Body: []byte(`{}`)}}
				if i%3 == 0 {
					slices.Reverse(logs)
				}
				done, err := at.CommitAll(ctx, logs)
				if err != nil {
					return err
				}
				if len(done.IDs) != 2 || done.IDs[0].TS != done.IDs[1].TS {
					return fmt.Errorf("a commit's ids are %v", done.IDs)
				}
			}
			return nil
		})
	}
	err := all.Wait()
	done.Store(true)
	if err == nil {
		err = readers.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	// In commit order: what one writer committed later has the greater seq.
	last := map[string]int{}
	for log, err := range s.RangeAll(ctx, "left", client.RangeOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		var body struct{ Writer, N int }
		if err := json.Unmarshal(log.Body, &body); err != nil {
			t.Fatal(err)
		}
		if writer := strconv.Itoa(body.Writer); last[writer] != body.N {
			t.Errorf("log %v is number %d of writer %s, after %d", log.ID, body.N, writer, last[writer]-1)
		} else {
			last[writer]++
		}
	}
}

// Promise 1: what was answered with 2xx outlives the server.
func TestCommitsOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	w.commit("kept", 20)
	before := w.get("/v1/topics/kept/logs").is(200)
	s.Stop()
	again := wireTo(t, startOn(t, s.Database))
	again.get("/v1/topics/kept/logs").tellsAs(before)
	again.post("/v1/topics/kept/logs", `{}`).is(201)
	again.get("/v1/topics/kept/logs/:20").is(200)
}

// A commit is all or nothing: one bad log, and none of them is there.
func TestBadLogSpoilsTheWholeCommit(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("known", 1)
	for bad, code := range map[string]string{`{"topic":"b.d","body":{}}`: "invalid_topic_format", `{"topic":"known","body":1}`: "invalid_log_format",
		`{"topic":"known"}`: "invalid_log_format", `{"body":{}}`: "invalid_topic_format"} {
		for _, list := range []string{"[%[1]s,%[2]s]", "[%[2]s,%[1]s]", "[%[1]s,%[2]s,%[1]s]"} {
			w.post("/v1/commit", fmt.Sprintf(list, `{"topic":"known","body":{}},{"topic":"fresh","body":{}}`, bad)).isProblem(400, code)
		}
	}
	w.get("/v1/topics/known").is(200).has("committed", 1)
	w.get("/v1/topics/fresh").isProblem(404, "invalid_topic")
}

// keyed sends a commit with an Idempotency-Key.
func (w procWire) keyed(key, path, body string) *wireAnswer {
	w.t.Helper()
	return w.sendWith(http.MethodPost, path, body, "Content-Type", "application/json", "Idempotency-Key", key)
}

func TestIdempotentCommit(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := wireTo(t, s)
	second := wireTo(t, startOn(t, s.Database))
	const day = 24 * 60 * 60 * 1000

	one, list := `{"topic":"t","body":{"n":1}}`, `[{"topic":"t","body":{"n":1}},{"topic":"u","body":{"n":2}}]`
	first := w.keyed("one", "/v1/commit", one).is(201).hasExactly("", "id")
	many := w.keyed("list", "/v1/commit", list).is(201).hasExactly("", "ids")
	curl := w.keyed("curl", "/v1/topics/t/logs", `{"n":1}`).is(201).hasExactly("", "id")
	for range 2 {
		for _, at := range []procWire{w, second} {
			at.keyed("one", "/v1/commit", one).is(200).hasExactly("", "id", "duplicate").has("id", first.str("id")).has("duplicate", true)
			again := at.keyed("list", "/v1/commit", list).is(200).hasExactly("", "ids", "duplicate").has("duplicate", true)
			if diff := cmp.Diff(many.strs("ids"), again.strs("ids")); diff != "" {
				t.Errorf("ids of the repeat (-want +got):\n%s", diff)
			}
			at.keyed("curl", "/v1/topics/t/logs", `{"n":1}`).is(200).hasExactly("", "id", "duplicate").has("id", curl.str("id"))
		}
	}
	committed := func(inT, inU int) {
		t.Helper()
		w.get("/v1/topics/t").is(200).has("committed", inT)
		w.get("/v1/topics/u").is(200).has("committed", inU)
	}
	committed(3, 1)

	for _, other := range []struct{ key, path, body string }{
		{"one", "/v1/commit", `{"topic":"t","body":{"n":2}}`},
		{"one", "/v1/commit", `{"topic":"u","body":{"n":1}}`},
		{"one", "/v1/commit", `[` + one + `]`},
		{"one", "/v1/commit", list},
		{"one", "/v1/topics/t/logs", `{"n":1}`},
		{"list", "/v1/commit", one},
		{"list", "/v1/commit", `[{"topic":"u","body":{"n":2}},{"topic":"t","body":{"n":1}}]`},
		{"curl", "/v1/topics/t/logs", `{"n":1.0}`},
		{"curl", "/v1/topics/t/logs", `[{"n":1}]`},
		{"curl", "/v1/topics/u/logs", `{"n":1}`},
		{"curl", "/v1/topics/fresh/logs", `{"n":1}`},
		{"curl", "/v1/commit", one},
	} {
		w.keyed(other.key, other.path, other.body).isProblem(422, "idempotency_key_reused")
		second.keyed(other.key, other.path, other.body).isProblem(422, "idempotency_key_reused")
	}
	committed(3, 1)
	w.get("/v1/topics/fresh").isProblem(404, "invalid_topic")

	// Kept 24 h.
	pgtest.MoveClock(t, s.Database, "default", (day-60_000)*time.Millisecond)
	w.keyed("one", "/v1/commit", one).is(200).has("id", first.str("id"))
	pgtest.MoveClock(t, s.Database, "default", (day+60_000)*time.Millisecond)
	if later := w.keyed("one", "/v1/commit", one).is(201).hasExactly("", "id"); later.str("id") == first.str("id") {
		t.Error("after 24 h the key answered the old id with a 201")
	}
	w.keyed("list", "/v1/commit", one).is(201) // with whatever body
	committed(5, 1)
}

func TestIdempotencyKeyOfARefusedCommitIsFree(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.keyed("k", "/v1/commit", `{"topic":"t","body":1}`).isProblem(400, "invalid_log_format")
	w.keyed("k", "/v1/commit", `{"topic":"t","body":[1]}`).is(201)
	for _, bad := range []string{"", "two words", strings.Repeat("k", 256), "clé"} {
		w.keyed(bad, "/v1/commit", `{"topic":"t","body":[1]}`).isProblem(400, "invalid_request")
	}
	w.sendWith(http.MethodPost, "/v1/commit", `{"topic":"t","body":[1]}`, "Content-Type", "application/json",
		"Idempotency-Key", "a", "Idempotency-Key", "b").isProblem(400, "invalid_request")
	w.keyed(strings.Repeat("k", 255), "/v1/topics/t/logs", `[1]`).is(201)
	w.get("/v1/topics/t").is(200).has("committed", 2)
}

func TestConcurrentRepeatsCommitOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	servers := []*server{s, startOn(t, s.Database)}
	const repeats = 12
	answers := make([]client.Committed, repeats)
	atOnce(repeats, func(i int) {
		var err error
		answers[i], err = servers[i%2].CommitTo(t.Context(), "t", map[string]int{"n": 1}, client.IdempotencyKey("k"))
		if err != nil {
			t.Error(err)
		}
	})
	fresh := 0
	for _, a := range answers {
		if a.ID != answers[0].ID {
			t.Errorf("the repeats have the ids %v and %v", a.ID, answers[0].ID)
		}
		if !a.Duplicate {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of %d were not told to be duplicates", fresh, repeats)
	}
	if n, err := s.Length(t.Context(), "t"); n != 1 || err != nil {
		t.Errorf("%d logs, %v", n, err)
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pipeproc/cmd/server/service"
)

func TestTopic(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	begun := time.Now().UnixMilli()
	w.get("/v1/topics/t").isProblem(404, "invalid_topic")
	ids := w.commit("t", 3)
	topic := w.get("/v1/topics/t").is(200).hasExactly("", "name", "length", "committed", "firstId", "lastId", "createdAt").
		has("name", "t").has("length", 3).has("committed", 3).has("firstId", ids[0]).has("lastId", ids[2])
	if at := topic.num("createdAt"); at < begun-60_000 || at > begun+60_000 {
		t.Errorf("createdAt is %d, now is %d", at, begun)
	}
	// One commit more: createdAt stays.
	last := w.commit("t", 1)[0]
	w.get("/v1/topics/t").is(200).has("length", 4).has("firstId", ids[0]).has("lastId", last).has("createdAt", topic.num("createdAt"))
	w.get("/v1/topics/t?nope=1").isProblem(400, "invalid_request")
	w.get("/v1/topics/"+strings.Repeat("a", 129)).isProblem(400, "invalid_topic_format")
	w.get("/v1/topics/"+strings.Repeat("a", 128)).isProblem(404, "invalid_topic")
}

func TestTopicList(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	if empty := w.get("/v1/topics").is(200).hasExactly("", "topics"); strings.TrimSpace(empty.Text) != `{"topics":[]}` {
		t.Errorf("no topics: %s", empty.Text)
	}
	// By name, byte by byte.
	names := []string{"-", "10", "2", "A", "B", "Z", "_", "a", "a-b", "aa", "b"}
	for i := range names {
		w.commit(names[(i*7)%len(names)], 1)
	}
	listed := func(a *wireAnswer) []string {
		t.Helper()
		got := []string{}
		for i := range a.is(200).list("topics") {
			a.hasExactly(fmt.Sprintf("topics.%d", i), "name", "length", "committed", "firstId", "lastId", "createdAt")
			got = append(got, a.str(fmt.Sprintf("topics.%d.name", i)))
		}
		return got
	}
	all := w.get("/v1/topics").hasExactly("", "topics")
	if diff := cmp.Diff(names, listed(all)); diff != "" {
		t.Errorf("topics (-want +got):\n%s", diff)
	}
	for _, limit := range []int{1, 4, len(names) - 1, len(names), 1000} {
		walked, after := []string{}, ""
		for {
			page := w.get(fmt.Sprintf("/v1/topics?limit=%d%s", limit, after))
			got := listed(page)
			walked = append(walked, got...)
			if len(walked) >= len(names) {
				page.hasExactly("", "topics") // next is absent when nothing follows
				break
			}
			if page.hasExactly("", "topics", "next"); len(got) != limit {
				t.Fatalf("limit %d: a page of %d with next", limit, len(got))
			}
			after = "&after=" + page.str("next")
		}
		if diff := cmp.Diff(names, walked); diff != "" {
			t.Errorf("limit %d (-want +got):\n%s", limit, diff)
		}
	}
	// after need not exist.
	if diff := cmp.Diff([]string{"a-b", "aa", "b"}, listed(w.get("/v1/topics?after=a-a"))); diff != "" {
		t.Errorf("after a-a (-want +got):\n%s", diff)
	}
	w.get("/v1/topics?after=zz").is(200).hasExactly("", "topics").hasSeqs("topics", 0, -1)
	for _, bad := range []string{"limit=0", "limit=-1", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "topic=a", "next=a"} {
		w.get("/v1/topics?"+bad).isProblem(400, "invalid_request")
	}
	w.get("/v1/topics?after=b.d").isProblem(400, "invalid_topic_format")
}

// A name that procs alone have reserved is no topic.
func TestReservedTopic(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	unknown := func() {
		t.Helper()
		w.get("/v1/topics/r").isProblem(404, "invalid_topic")
		w.get("/v1/topics/r/logs").isProblem(404, "invalid_topic")
		w.get("/v1/topics/r/logs/:0").isProblem(404, "invalid_topic")
		w.send("DELETE", "/v1/topics/r", "").isProblem(404, "invalid_topic")
		w.send("DELETE", "/v1/topics/r?force=true", "").isProblem(404, "invalid_topic")
		w.get("/v1/topics").is(200).hasSeqs("topics", 0, -1)
	}
	w.send("PUT", "/v1/procs/latest", `{"topic":"r","offset":"$>"}`).is(201)
	unknown()
	w.post("/v1/gc", "").is(200).hasSeqs("topics", 0, -1)
	unknown()
	w.send("DELETE", "/v1/procs/latest", "").is(200)
	unknown()
	w.send("PUT", "/v1/procs/latest", `{"topic":"r","offset":"$>"}`).is(201)
	w.send("PUT", "/v1/procs/earliest", `{"topic":"r"}`).is(201)
	ids := w.commit("r", 2) // its head was 0: "$>" means ">"
	w.get("/v1/topics/r").is(200).has("length", 2)
	for _, proc := range []string{"latest", "earliest"} {
		w.claim(proc, "").has("logs.0.id", ids[0])
	}
	w.send("DELETE", "/v1/procs/latest", "").is(200)
	w.send("DELETE", "/v1/procs/earliest", "").is(200)
	w.get("/v1/topics/r").is(200).has("length", 2) // it is a topic by now
}

func TestDeleteTopic(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("t", 3)
	w.commit("stays", 1)
	w.send("DELETE", "/v1/topics/t?force=maybe", "").isProblem(400, "invalid_request")
	w.send("DELETE", "/v1/topics/t?nope=1", "").isProblem(400, "invalid_request")
	w.send("DELETE", "/v1/topics/b.d", "").isProblem(400, "invalid_topic_format")

	w.claim("p", `{"topic":"t"}`)
	w.send("PUT", "/v1/procs/q", `{"topic":"t"}`).is(201)
	w.post("/v1/procs/q/disable", "").is(200)
	w.send("DELETE", "/v1/topics/t", "").isProblem(409, "topic_in_use")
	w.send("DELETE", "/v1/topics/t?force=false", "").isProblem(409, "topic_in_use")
	w.get("/v1/topics/t").is(200).has("length", 3)
	w.proc("p").has("lag", 3)

	w.send("DELETE", "/v1/topics/t?force=true", "").isEmpty(204)
	w.get("/v1/topics/t").isProblem(404, "invalid_topic")
	w.get("/v1/topics/t/logs").isProblem(404, "invalid_topic")
	w.get("/v1/procs/p").isProblem(404, "invalid_proc")
	w.get("/v1/procs/q").isProblem(404, "invalid_proc")
	w.post("/v1/procs/p/ack", "").isProblem(404, "invalid_proc")
	w.send("DELETE", "/v1/topics/t", "").isProblem(404, "invalid_topic")
	w.send("DELETE", "/v1/topics/t?force=true", "").isProblem(404, "invalid_topic")

	// A later topic of that name is another one, from seq 0.
	id := w.commit("t", 1)[0]
	if !strings.HasSuffix(id, "-0") {
		t.Errorf("the first log of the later topic is %s", id)
	}
	w.get("/v1/topics/t").is(200).has("length", 1).has("committed", 1).has("firstId", id)
	w.get("/v1/topics/t/logs").is(200).hasSeqs("logs", 0, 0)
	w.claim("p", `{"topic":"t"}`).has("logs.0.id", id).has("claim.attempt", 1)
	w.send("DELETE", "/v1/procs/p", "").is(200)
	w.send("DELETE", "/v1/topics/t", "").isEmpty(204)
	w.get("/v1/topics/stays").is(200).has("length", 1)
}

// force destroys the procs of systemProcs and liveProcs as well: the systemProc goes with its last topic.
func TestDeleteTopicOfManagedProcs(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t, func(c *service.Config) { c.Workers = 0 }))
	w.commit("a", 1)
	w.commit("b", 1)
	w.post("/v1/system-procs", `{"name":"one","from":"a","processor":"http://127.0.0.1:1/"}`).is(201)
	w.post("/v1/system-procs", `{"name":"two","from":["a","b"],"processor":"http://127.0.0.1:1/"}`).is(201)
	live := w.post("/v1/live-procs", `{"topic":"a","mode":"all"}`).is(201).str("name")
	w.send("DELETE", "/v1/topics/a", "").isProblem(409, "topic_in_use")
	w.send("DELETE", "/v1/topics/a?force=true", "").isEmpty(204)
	w.get("/v1/procs/"+live).isProblem(404, "invalid_proc")
	w.get("/v1/system-procs/one").isProblem(404, "invalid_system_proc")
	two := w.get("/v1/system-procs/two").is(200)
	if diff := cmp.Diff([]string{"b"}, two.strs("from")); diff != "" || len(two.list("procs")) != 1 {
		t.Errorf("two: %s", two.Text)
	}
	w.send("DELETE", "/v1/topics/b?force=true", "").isEmpty(204)
	w.get("/v1/system-procs").is(200).hasSeqs("systemProcs", 0, -1)
	w.get("/v1/procs").is(200).hasSeqs("procs", 0, -1)
}

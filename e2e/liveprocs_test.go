package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const changesOf = "/v1/live-procs/"

// live creates a liveProc and answers its name and the path of its stream.
func (w procWire) live(body string) (name, changes string) {
	w.t.Helper()
	p := w.post("/v1/live-procs", body).is(http.StatusCreated)
	return p.str("name"), p.str("changes")
}

// opens holds that a stream opens with the event liveproc of this liveProc, under this id.
func (s *wireStream) opens(name string, connection int, last string) wireEvent {
	s.t.Helper()
	e := s.next("liveproc")
	e.hasExactly("", procMembers...).has("name", name).has("kind", "live")
	return e.isUnder(name, connection, last)
}

// isUnder holds an event's id.
func (e wireEvent) isUnder(name string, connection int, last string) wireEvent {
	e.t.Helper()
	if want := fmt.Sprintf("%s:%d:%s", name, connection, last); e.ID != want {
		e.t.Errorf("%s: the id is %q, want %q", e.what, e.ID, want)
	}
	return e
}

// logs is the next event of a stream, which is to be a batch of the seqs from first to last.
func (s *wireStream) logs(first, last int64) wireEvent {
	s.t.Helper()
	e := s.next("logs")
	e.hasExactly("", "proc", "claim", "logs").hasExactly("claim", "token", "range", "attempt", "expiresAt").
		hasSeqs("logs", first, last)
	ids := e.ids("logs")
	e.has("claim.range", wireRange(ids[0], ids[len(ids)-1]))
	name, rest, _ := strings.Cut(e.ID, ":")
	if e.has("proc", name); !strings.HasSuffix(rest, ":"+ids[len(ids)-1]) {
		e.t.Errorf("%s: the id is %q, the last log %s", e.what, e.ID, ids[len(ids)-1])
	}
	return e
}

// endsBecause holds that the stream ends, and tells this reason.
func (s *wireStream) endsBecause(reason string) wireEvent {
	s.t.Helper()
	e := s.next("end")
	e.hasExactly("", "reason").has("reason", reason)
	s.ends()
	return e
}

func TestLiveProcShape(t *testing.T) {
	t.Parallel()
	server := start(t)
	w := wireTo(t, server)
	ids := w.commit("a", 3)
	uuid := regexp.MustCompile(`^liveproc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

	t.Run("created", func(t *testing.T) {
		w := wireTo(t, server)
		p := w.post("/v1/live-procs", `{"topic":"a","mode":"all"}`).is(http.StatusCreated)
		p.hasExactly("", append([]string{"changes"}, procMembers...)...)
		name := p.str("name")
		if !uuid.MatchString(name) {
			t.Errorf("the name is %q", name)
		}
		p.has("changes", changesOf+name+"/changes").has("topic", "a").has("kind", "live").has("status", "active").
			has("onMaxReclaimsReached", "continue").has("count", 1).has("lag", 3).has("claim", nil).has("reclaims", 0).
			has("maxReclaims", 10).has("reclaimTimeout", 10_000).has("lastClaimedRange", "").has("previousClaimedRange", "").
			has("lastAckedRange", "").has("lastClaimedAt", nil).has("lastAckedAt", nil)
		w.proc(name).hasExactly("", procMembers...).has("kind", "live").has("lag", 3)
		w.get("/v1/procs?kind=live&topic=a").is(http.StatusOK).has("procs.0.name", name)
	})
	t.Run("modes", func(t *testing.T) {
		w := wireTo(t, server)
		for mode, lag := range map[string]int{"live": 0, "all": 3} {
			w.post("/v1/live-procs", `{"topic":"a","mode":"`+mode+`","count":7,"ttl":-1}`).is(http.StatusCreated).
				has("lag", lag).has("count", 7)
		}
	})
	t.Run("every one is another", func(t *testing.T) {
		w := wireTo(t, server)
		one, _ := w.live(`{"topic":"a","mode":"all"}`)
		other, _ := w.live(`{"topic":"a","mode":"all"}`)
		if one == other {
			t.Errorf("both are %s", one)
		}
	})
	t.Run("topic without logs", func(t *testing.T) {
		w := wireTo(t, server)
		for _, mode := range []string{"live", "all"} {
			name, _ := w.live(`{"topic":"reserved","mode":"` + mode + `"}`)
			w.get("/v1/topics/reserved").isProblem(http.StatusNotFound, "invalid_topic")
			w.send(http.MethodDelete, changesOf+name, "").is(http.StatusOK).has("lag", 0)
		}
	})
	t.Run("refused", func(t *testing.T) {
		w := wireTo(t, server)
		before := len(w.get("/v1/procs?kind=live&limit=1000").list("procs"))
		for body, code := range map[string]string{
			``: "invalid_request", `{}`: "invalid_topic_format", `[]`: "invalid_request", `{"topic":"a"}`: "invalid_request",
			`{"mode":"all"}`: "invalid_topic_format", `{"topic":"a b","mode":"all"}`: "invalid_topic_format",
			`{"topic":"a","mode":"both"}`: "invalid_request", `{"topic":"a","mode":"Live"}`: "invalid_request",
			`{"topic":"a","mode":"all","count":0}`: "invalid_request", `{"topic":"a","mode":"all","count":10001}`: "invalid_request",
			`{"topic":"a","mode":"all","count":1.5}`: "invalid_request", `{"topic":"a","mode":"all","ttl":0}`: "invalid_request",
			`{"topic":"a","mode":"all","ttl":-2}`: "invalid_request", `{"topic":"a","mode":"all","ttl":"1"}`: "invalid_request",
			`{"topic":"a","mode":"all","name":"x"}`: "invalid_request", `{"topic":"a","mode":"all","offset":">"}`: "invalid_request",
			`{"topic":"a","topic":"a","mode":"all"}`: "invalid_request", `{"Topic":"a","mode":"all"}`: "invalid_request",
		} {
			w.post("/v1/live-procs", body).isProblem(http.StatusBadRequest, code)
		}
		w.sendWith(http.MethodPost, "/v1/live-procs", `{"topic":"a","mode":"all"}`).
			isProblem(http.StatusUnsupportedMediaType, "unsupported_media_type")
		if after := len(w.get("/v1/procs?kind=live&limit=1000").list("procs")); after != before {
			t.Errorf("there are %d liveProcs, before %d", after, before)
		}
	})
	t.Run("destroyed", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		s.logs(0, 0)
		w.send(http.MethodDelete, changesOf+name, "").is(http.StatusOK).hasExactly("", procMembers...).has("name", name).
			has("lag", 3).has("lastClaimedRange", wireRange(ids[0]))
		w.send(http.MethodDelete, changesOf+name, "").isProblem(http.StatusNotFound, "invalid_proc")
		w.get("/v1/procs/"+name).isProblem(http.StatusNotFound, "invalid_proc")
	})
	t.Run("no liveProc", func(t *testing.T) {
		w := wireTo(t, server)
		w.claim("p", `{"topic":"a"}`)
		for _, name := range []string{"p", "unknown"} {
			w.send(http.MethodDelete, changesOf+name, "").isProblem(http.StatusNotFound, "invalid_proc")
			w.post(changesOf+name+"/cancel", "").isProblem(http.StatusNotFound, "invalid_proc")
		}
		w.send(http.MethodDelete, changesOf+"a%20b", "").isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.post(changesOf+"a%20b/cancel", "").isProblem(http.StatusBadRequest, "invalid_proc_format")
		w.proc("p").has("status", "active")
	})
}

// TestLiveProcAckClaims: with a stream, an ack claims the next batch for it in its own transaction; without one it does
// not, since nobody would see it.
func TestLiveProcAckClaims(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	w.commit("a", 3)
	name, changes := w.live(`{"topic":"a","mode":"all"}`)
	s := w.stream(changes, "")
	s.opens(name, 1, "")
	w.ack(name, s.logs(0, 0).wireAnswer)
	claimed := w.proc(name).has("lag", 2).str("claim.token")
	if got := s.logs(1, 1).str("claim.token"); got != claimed {
		t.Errorf("the stream got token %s, the ack claimed %s", got, claimed)
	}
	s.close()
	w.streamsAreClosed()
	w.post("/v1/procs/"+name+"/ack", `{"token":"`+claimed+`"}`).is(http.StatusOK).hasExactly("", "ackedLogId")
	w.proc(name).has("lag", 1).has("claim", nil)
	s = w.stream(changes, "")
	s.opens(name, 2, "")
	s.logs(2, 2)
}

func TestLiveProcStream(t *testing.T) {
	t.Parallel()
	server := start(t)
	w := wireTo(t, server)
	w.commit("a", 5)

	t.Run("batches come one at a time", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all","count":2}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "").has("lag", 5).has("status", "active")
		first := s.logs(0, 1)
		first.hasExactly("logs.0", "id", "body").has("logs.0.body.i", 0).has("claim.attempt", 1)
		w.proc(name).has("claim.token", first.str("claim.token")).has("lag", 5)
		w.ack(name, first.wireAnswer)
		second := s.logs(2, 3)
		if first.str("claim.token") == second.str("claim.token") {
			t.Error("two claims have one token")
		}
		w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK).has("ackedLogId", second.str("claim.range")) // without a token, too
		s.logs(4, 4)
		w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK)
		w.commit("a", 1)
		s.logs(5, 5).isUnder(name, 1, w.proc(name).str("claim.range")[:strings.Index(w.proc(name).str("claim.range"), "..")])
	})
	t.Run("ackCommit", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("in", 2)
		name, changes := w.live(`{"topic":"in","mode":"all"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		claimed := s.logs(0, 0)
		w.post("/v1/procs/"+name+"/ack-commit", `{"token":"`+claimed.str("claim.token")+`","logs":{"topic":"out","body":{"x":1}}}`).
			is(http.StatusOK).hasExactly("", "ackedLogId", "id")
		s.logs(1, 1)
		w.get("/v1/topics/out/logs").is(http.StatusOK).has("logs.0.body.x", 1)
	})
	t.Run("mode live starts at its creation, not at its connection", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("l", 2)
		name, changes := w.live(`{"topic":"l","mode":"live","count":10}`)
		w.commit("l", 2)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		s.logs(2, 3)
	})
	t.Run("a topic to come", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"later","mode":"live"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "").has("lag", 0)
		w.commit("later", 1)
		s.logs(0, 0)
	})
	t.Run("a reclaimed batch comes again", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("r", 3)
		name, changes := w.live(`{"topic":"r","mode":"all","count":2}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		first := s.logs(0, 1)
		for attempt := 2; attempt <= 12; attempt++ { // beyond maxReclaims: it goes on
			w.post("/v1/procs/"+name+"/reclaim", "").is(http.StatusOK).has("lastClaimedRange", "")
			again := s.logs(0, 1)
			again.has("claim.attempt", attempt)
			if again.str("claim.token") == first.str("claim.token") {
				t.Error("a token is used twice")
			}
		}
		w.proc(name).has("status", "active").has("reclaims", 11)
		w.post("/v1/procs/"+name+"/ack", `{"token":"`+first.str("claim.token")+`"}`).isProblem(http.StatusConflict, "claim_lost")
		// Another count is for the batches after the one that is to be tried again.
		w.send(http.MethodPatch, "/v1/procs/"+name, `{"count":1}`).is(http.StatusOK)
		w.post("/v1/procs/"+name+"/reclaim", "").is(http.StatusOK)
		s.logs(0, 1)
		w.post("/v1/procs/"+name+"/ack", "").is(http.StatusOK)
		s.logs(2, 2).has("claim.attempt", 1)
	})
	t.Run("a batch that timed out comes again", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("timed", 3)
		name, changes := w.live(`{"topic":"timed","mode":"all","count":2}`)
		w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":50}`).is(http.StatusOK)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		first := s.logs(0, 1)
		w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":60000}`).is(http.StatusOK)
		var again wireEvent
		for again = s.logs(0, 1); again.num("claim.expiresAt") < first.num("claim.expiresAt")+10_000; again = s.logs(0, 1) {
			first = again // one made before the PATCH
		}
		w.post("/v1/procs/"+name+"/ack", `{"token":"`+first.str("claim.token")+`"}`).isProblem(http.StatusConflict, "claim_lost")
		w.ack(name, again.wireAnswer)
		s.logs(2, 2)
	})
	t.Run("seek", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("s", 4)
		name, changes := w.live(`{"topic":"s","mode":"all","count":10}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		claimed := s.logs(0, 3)
		w.post("/v1/procs/"+name+"/seek", `{"offset":">"}`).isProblem(http.StatusConflict, "already_claimed", "expiresAt")
		w.ack(name, claimed.wireAnswer)
		w.post("/v1/procs/"+name+"/seek", `{"offset":":1"}`).is(http.StatusOK).has("lag", 2)
		s.logs(2, 3)
	})
	t.Run("ack does not claim for its caller", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		claimed := s.logs(0, 0)
		w.post("/v1/procs/"+name+"/ack", `{"token":"`+claimed.str("claim.token")+`","claimNext":true}`).
			isProblem(http.StatusConflict, "proc_is_managed")
		w.post("/v1/procs/"+name+"/claim", "").isProblem(http.StatusConflict, "proc_is_managed")
		w.post("/v1/procs/"+name+"/extend", `{"token":"`+claimed.str("claim.token")+`"}`).is(http.StatusOK).
			has("claim.token", claimed.str("claim.token"))
		w.ack(name, claimed.wireAnswer)
		s.logs(1, 1)
	})
	t.Run("bodies come byte for byte", func(t *testing.T) {
		w := wireTo(t, server)
		body := `{"z":1e2,"a":12345678901234567890,"a":1e400,"s":"\u0000\ud800<>&","u":"ü€😀","l":"\r\n"}`
		w.post("/v1/topics/raw/logs", body).is(http.StatusCreated)
		_, changes := w.live(`{"topic":"raw","mode":"all"}`)
		s := w.stream(changes, "")
		s.next("liveproc")
		if e := s.next("logs"); !strings.Contains(e.Data, `"body":`+body+`}]`) {
			t.Errorf("%s, want %s", e.Data, body)
		}
	})
	t.Run("in one step", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("one", 4)
		s := w.stream("/v1/topics/one/live?mode=all&count=3", "")
		p := s.next("liveproc")
		p.hasExactly("", procMembers...).has("topic", "one").has("kind", "live").has("count", 3).has("lag", 4)
		p.isUnder(p.str("name"), 1, "")
		s.logs(0, 2)
		w.post("/v1/procs/"+p.str("name")+"/ack", "").is(http.StatusOK)
		s.logs(3, 3)

		for _, path := range []string{"/v1/topics/one/live?mode=live", "/v1/topics/one/live"} {
			s := w.stream(path, "")
			p := s.next("liveproc")
			p.has("lag", 0).has("count", 1)
			id := w.commit("one", 1)[0]
			e := s.next("logs")
			e.has("logs.0.id", id)
			e.isUnder(p.str("name"), 1, id)
		}
	})
}

func TestLiveProcConnections(t *testing.T) {
	t.Parallel()
	server := start(t)
	w := wireTo(t, server)
	w.commit("a", 3)

	t.Run("a reconnect keeps its number and gets the outstanding claim", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		claimed := s.logs(0, 0)
		id0 := claimed.str("logs.0.id")
		s.close()
		for range 3 {
			s = w.stream(changes, claimed.ID)
			s.opens(name, 1, id0).has("claim.token", claimed.str("claim.token"))
			again := s.logs(0, 0)
			again.tellsAs(claimed.wireAnswer)
			s.close()
		}
		// Acked while nobody is connected: the next batch comes on the next connection.
		w.ack(name, claimed.wireAnswer)
		s = w.stream(changes, claimed.ID)
		s.opens(name, 1, id0)
		s.logs(1, 1)
	})
	t.Run("after the first event alone", func(t *testing.T) {
		w := wireTo(t, server)
		s := w.stream("/v1/topics/empty/live", "")
		first := s.next("liveproc")
		s.close()
		ids := w.commit("empty", 2) // must not be lost
		s = w.stream("/v1/topics/empty/live", first.ID)
		s.opens(first.str("name"), 1, "")
		s.logs(0, 0).has("logs.0.id", ids[0])
	})
	t.Run("the same on …/live, in any mode", func(t *testing.T) {
		w := wireTo(t, server)
		s := w.stream("/v1/topics/a/live?mode=all&count=2", "")
		name := s.next("liveproc").str("name")
		claimed := s.logs(0, 1)
		again := w.stream("/v1/topics/a/live?mode=live", claimed.ID)
		again.opens(name, 1, claimed.str("logs.1.id"))
		again.logs(0, 1).tellsAs(claimed.wireAnswer)
		s.endsBecause("replaced").isUnder(name, 1, claimed.str("logs.1.id"))
		// It is the same liveProc on the other route.
		other := w.stream(changesOf+name+"/changes", claimed.ID)
		other.opens(name, 1, claimed.str("logs.1.id"))
		again.endsBecause("replaced")
	})
	t.Run("the id may be in the query", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		w.stream(changes, "").opens(name, 1, "")
		w.stream(changes+"?lastEventId="+name+":1:", "").opens(name, 1, "")
		w.noStream(changes+"?lastEventId=x", "").isProblem(http.StatusBadRequest, "invalid_request")
		w.stream(changes+"?lastEventId=x", name+":1:").opens(name, 1, "") // the header wins
	})
	t.Run("two tabs", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		one := w.stream(changes, "")
		one.opens(name, 1, "")
		claimed := one.logs(0, 0)
		two := w.stream(changes, "")
		two.opens(name, 2, "")
		second := two.logs(0, 0)
		second.tellsAs(claimed.wireAnswer)
		second.isUnder(name, 2, claimed.str("logs.0.id"))
		one.endsBecause("replaced").isUnder(name, 1, claimed.str("logs.0.id"))
		for range 3 { // the first tab comes back as its EventSource does, and the second is not disturbed
			w.noStream(changes, claimed.ID).isEmpty(http.StatusNoContent)
			w.noStream("/v1/topics/a/live", claimed.ID).isEmpty(http.StatusNoContent)
		}
		w.ack(name, second.wireAnswer)
		two.logs(1, 1)
		// A third one; the second goes; then a number below the greatest one may come back.
		three := w.stream(changes, "")
		three.opens(name, 3, "")
		two.endsBecause("replaced")
		three.close()
		w.streamAtLast(changes, claimed.ID).opens(name, 1, claimed.str("logs.0.id"))
		// The next new one has a number of its own all the same.
		w.stream(changes, "").opens(name, 4, "")
	})
}

// streamAtLast opens a stream as soon as it is not refused with 204 any more: a greater number was open, and the
// server is to find out that it is gone.
func (w procWire) streamAtLast(path, lastID string) (s *wireStream) {
	w.t.Helper()
	w.eventually("the greater number is gone", func() bool {
		resp, cancel := w.askStream(path, lastID)
		cancel()
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return w.stream(path, lastID)
}

func TestLiveProcEnds(t *testing.T) {
	t.Parallel()
	server := start(t)
	w := wireTo(t, server)
	w.commit("a", 3)

	for _, tt := range []struct {
		reason, method, path string
		goes                 bool // the liveProc
	}{
		{"disabled", http.MethodPost, "/v1/procs/%s/disable", false},
		{"cancelled", http.MethodPost, "/v1/live-procs/%s/cancel", false},
		{"destroyed", http.MethodDelete, "/v1/live-procs/%s", true},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := wireTo(t, server)
			name, changes := w.live(`{"topic":"a","mode":"all"}`)
			s := w.stream(changes, "")
			s.opens(name, 1, "")
			claimed := s.logs(0, 0)
			a := w.send(tt.method, fmt.Sprintf(tt.path, name), "").is(http.StatusOK).hasExactly("", procMembers...).
				has("name", name).has("claim.token", claimed.str("claim.token"))
			end := s.endsBecause(tt.reason).isUnder(name, 1, claimed.str("logs.0.id"))

			w.noStream(changes, end.ID).isEmpty(http.StatusNoContent)
			w.noStream(changes, name+":9:").isEmpty(http.StatusNoContent)
			if tt.goes {
				w.noStream(changes, "").isEmpty(http.StatusNoContent)
				again := w.stream("/v1/topics/a/live?mode=all", end.ID)
				gap := again.next("gap")
				gap.hasExactly("", "topic", "requested", "resumedAt", "reason").has("topic", "a").
					has("requested", claimed.str("logs.0.id")).has("resumedAt", ":0").has("reason", "recreated")
				p := again.next("liveproc")
				if p.str("name") == name {
					t.Error("the new liveProc has the old one's name")
				}
				p.isUnder(p.str("name"), 1, "")
				gap.isUnder(p.str("name"), 1, "")
				again.logs(0, 0)
				return
			}
			a.has("status", "disabled")
			w.noStream("/v1/topics/a/live", end.ID).isEmpty(http.StatusNoContent)
			w.noStream(changes, "").isEmpty(http.StatusNoContent)
			// Its claim stays, and can be acked; resumed, it streams again.
			w.ack(name, claimed.wireAnswer)
			w.post("/v1/procs/"+name+"/resume", "").is(http.StatusOK).has("status", "active")
			s = w.stream(changes, end.ID)
			s.opens(name, 1, claimed.str("logs.0.id")).has("status", "active")
			s.logs(1, 1)
			s = w.stream(changes, "")
			s.opens(name, 2, "")
			s.logs(1, 1)
		})
	}
	t.Run("its topic is deleted", func(t *testing.T) {
		w := wireTo(t, server)
		w.commit("gone", 1)
		name, changes := w.live(`{"topic":"gone","mode":"all"}`)
		s := w.stream(changes, "")
		s.opens(name, 1, "")
		s.logs(0, 0)
		w.send(http.MethodDelete, "/v1/topics/gone", "").isProblem(http.StatusConflict, "topic_in_use")
		w.send(http.MethodDelete, "/v1/topics/gone?force=true", "").isEmpty(http.StatusNoContent)
		s.endsBecause("destroyed")
	})
	t.Run("cancel without a stream, and again", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		for range 2 {
			w.post(changesOf+name+"/cancel", "").is(http.StatusOK).has("status", "disabled")
		}
		w.noStream(changes, name+":1:").isEmpty(http.StatusNoContent)
		w.post(changesOf+name+"/cancel", `{"x":1}`).isProblem(http.StatusBadRequest, "invalid_request")
		w.post("/v1/procs/"+name+"/disable", "").isProblem(http.StatusConflict, "proc_already_disabled")
		w.post("/v1/procs/"+name+"/resume", "").is(http.StatusOK)
		w.stream(changes, "").opens(name, 1, "")
	})
	t.Run("disabled, then cancelled", func(t *testing.T) {
		w := wireTo(t, server)
		name, changes := w.live(`{"topic":"a","mode":"all"}`)
		w.post("/v1/procs/"+name+"/disable", "").is(http.StatusOK)
		w.post(changesOf+name+"/cancel", "").is(http.StatusOK).has("status", "disabled")
		w.post("/v1/procs/"+name+"/resume", "").is(http.StatusOK)
		w.stream(changes, "").opens(name, 1, "")
	})
	t.Run("a liveProc that never was", func(t *testing.T) {
		w := wireTo(t, server)
		unknown := "liveproc-00000000-0000-4000-8000-000000000000"
		w.noStream(changesOf+unknown+"/changes", unknown+":1:").isEmpty(http.StatusNoContent)
		s := w.stream("/v1/topics/a/live", unknown+":1:")
		s.next("gap").has("topic", "a").has("requested", nil).has("resumedAt", ":3").has("reason", "recreated")
		s.next("liveproc").has("lag", 0)
	})
}

// TestLiveProcEventsEndAt8MiB holds that the bodies of one event do, however many logs its liveProc would take.
func TestLiveProcEventsEndAt8MiB(t *testing.T) {
	t.Parallel()
	w := wireTo(t, start(t))
	body := `{"x":"` + strings.Repeat("x", 1<<20-8) + `"}` // 1 MiB, the most that a log may have
	for range 10 {
		w.post("/v1/topics/big/logs", body).is(http.StatusCreated)
	}
	name, changes := w.live(`{"topic":"big","mode":"all","count":10000}`)
	w.send(http.MethodPatch, "/v1/procs/"+name, `{"reclaimTimeout":60000}`).is(http.StatusOK) // so much takes its time
	s := w.stream(changes, "")
	s.opens(name, 1, "")
	first := s.logs(0, 7)
	s.close()
	s = w.stream(changes, first.ID)
	s.opens(name, 1, first.str("logs.7.id"))
	again := s.logs(0, 7)
	if d := cmp.Diff(first.str("claim.token"), again.str("claim.token")); d != "" {
		t.Error(d)
	}
	w.ack(name, again.wireAnswer)
	s.logs(8, 9)

	tail := w.stream("/v1/tail?topic=big&start=earliest", "")
	for i := range 10 {
		if e := tail.next("log"); !strings.HasSuffix(e.str("id"), fmt.Sprint("-", i)) || !strings.HasSuffix(e.Data, `,"body":`+body+"}") {
			t.Fatalf("log %d: %.200s", i, e.Data)
		}
	}
}

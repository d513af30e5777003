package procs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pipeproc/api"
)

// delivery is what a webhook was sent.
type delivery struct {
	Proc  string `json:"proc"`
	Claim struct {
		Token   string `json:"token"`
		Attempt int    `json:"attempt"`
	} `json:"claim"`
	Logs []struct {
		Body json.RawMessage `json:"body"`
	} `json:"logs"`
	id string
	at time.Time
}

// hook is a webhook that remembers its deliveries. answer may be nil: the first log comes back as it is.
type hook struct {
	answer func(w http.ResponseWriter, r *http.Request, d delivery)

	mu   sync.Mutex
	got  []delivery
	now  map[string]int // calls that run, by proc
	most int            // of all, at a time
	twin bool           // a proc had two at a time
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var d delivery
	_ = json.NewDecoder(r.Body).Decode(&d)
	_, _ = io.Copy(io.Discard, r.Body)
	d.id, d.at = r.Header.Get("webhook-id"), time.Now()
	h.mu.Lock()
	h.got = append(h.got, d)
	if h.now == nil {
		h.now = map[string]int{}
	}
	h.now[d.Proc]++
	h.twin = h.twin || h.now[d.Proc] > 1
	h.most = max(h.most, h.running())
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.now[d.Proc]--
	}()
	if h.answer != nil {
		h.answer(w, r, d)
		return
	}
	_, _ = w.Write(d.Logs[0].Body)
}

func (h *hook) running() (n int) {
	for _, calls := range h.now {
		n += calls
	}
	return n
}

// calls are the procs called, in order.
func (h *hook) calls() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, d := range h.got {
		b.WriteString(d.Proc)
	}
	return b.String()
}

func (h *hook) deliveries() []delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

func numbered(n int) []string {
	var bodies []string
	for i := range n {
		bodies = append(bodies, fmt.Sprintf(`{"n":%d}`, i))
	}
	return bodies
}

// TestInOrder: with nobody else waiting, a proc goes from ack to claim without a look in between, and its output keeps
// the order of its logs.
func TestInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		claims := 0
		m.onClaim = func(string) error { claims++; return nil }
		m.commit("in", numbered(100)...)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, Config{Workers: 2, Concurrency: 3})
		synctest.Wait()
		if diff := cmp.Diff(strings.Join(numbered(100), "\n"), m.bodies("out")); diff != "" {
			t.Error(diff)
		}
		if claims != 1 {
			t.Errorf("%d claims beside those of the acks, want 1", claims)
		}
		if h.twin {
			t.Error("two executions of one proc at a time")
		}
	})
}

// TestWoken: an idle server starts an execution at once after a commit.
func TestWoken(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, one)
		for i := range 3 {
			time.Sleep(time.Minute) // the bubble's clock
			synctest.Wait()
			m.commit("in", `{}`)
			synctest.Wait()
			if got := len(h.deliveries()); got != i+1 {
				t.Fatalf("%d calls after commit %d, without any time gone by", got, i+1)
			}
		}
	})
}

// TestNoWorkers: nothing runs, not even a look.
func TestNoWorkers(t *testing.T) {
	for _, c := range []Config{{Workers: 0, Concurrency: 64}, {Workers: 1, Concurrency: 0}} {
		bubble(t, func(t *testing.T, m *memory, n *network) {
			m.commit("in", `{}`)
			m.system("a", "in", nil, "http://hook/")
			stop := work(t, m, n, c)
			synctest.Wait()
			stop()
			if m.looks != 0 || m.made() != 0 {
				t.Errorf("%d looks, %d claims", m.looks, m.made())
			}
		})
	}
}

// TestLimits: never more than workers × concurrency, never fewer while there is work, never two of one proc.
func TestLimits(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		release := make(chan struct{})
		h := &hook{answer: func(w http.ResponseWriter, _ *http.Request, _ delivery) {
			<-release
			w.WriteHeader(http.StatusNoContent)
		}}
		n.serve(t, "hook", h)
		m.commit("in", numbered(5)...)
		for i := range 17 {
			m.system(string(rune('a'+i)), "in", nil, "http://hook/")
		}
		work(t, m, n, Config{Workers: 3, Concurrency: 2})
		for range 17 * 5 {
			time.Sleep(lookGap) // the bubble's clock: whoever has work is known again
			synctest.Wait()
			h.mu.Lock()
			running, left := h.running(), 17*5-len(h.got)
			h.mu.Unlock()
			if running != 6 && left > 0 {
				t.Fatalf("%d executions run, want 6", running)
			}
			release <- struct{}{}
		}
		synctest.Wait()
		if h.most != 6 || h.twin || len(h.got) != 17*5 {
			t.Errorf("%d at most at a time, want 6; two of one proc: %v; %d calls, want %d", h.most, h.twin, len(h.got), 17*5)
		}
	})
}

// TestRoundRobin: with one slot, procs with work take turns.
func TestRoundRobin(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		m.commit("in", numbered(4)...)
		for _, name := range []string{"a", "b", "c"} {
			m.system(name, "in", nil, "http://hook/")
		}
		stop := work(t, m, n, one)
		synctest.Wait()
		stop()
		if got, want := h.calls(), "abcabcabcabc"; got != want {
			t.Errorf("calls %s, want %s", got, want)
		}
	})
}

// TestNewcomer: a proc that holds the only slot gives it up soon after another one gets work.
func TestNewcomer(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		h.answer = func(w http.ResponseWriter, _ *http.Request, d delivery) {
			time.Sleep(10 * time.Millisecond) // the bubble's clock: longer than the gap between looks
			if len(h.deliveries()) == 5 {
				m.commit("other", numbered(2)...)
			}
			w.WriteHeader(http.StatusNoContent)
		}
		n.serve(t, "hook", h)
		m.commit("in", numbered(10)...)
		m.system("a", "in", nil, "http://hook/")
		m.system("b", "other", nil, "http://hook/")
		work(t, m, n, one)
		time.Sleep(time.Second)
		if got, want := h.calls(), "aaaaaababaaa"; got != want && got != "aaaaababaaaa" {
			t.Errorf("calls %s, want %s", got, want)
		}
	})
}

// TestHangingProcessors: what hangs, fails and is unreachable keeps its slot until its time-out, and nobody else's.
func TestHangingProcessors(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		hang := &hook{answer: func(_ http.ResponseWriter, r *http.Request, _ delivery) { <-r.Context().Done() }}
		n.serve(t, "hang", hang)
		n.serve(t, "fail", replies(500, "", ""))
		n.serve(t, "hook", &hook{})
		m.commit("in", numbered(20)...)
		m.system("h", "in", nil, "http://hang/")
		m.system("f", "in", nil, "http://fail/")
		m.system("u", "in", nil, "http://unreachable/")
		for i := range 9 {
			m.system(fmt.Sprint(i), "in", []string{"out"}, "http://hook/")
		}
		work(t, m, n, Config{Workers: 1, Concurrency: 2})
		synctest.Wait()
		for i := range 9 {
			if p := m.proc(fmt.Sprint(i)); p.Lag != 0 {
				t.Errorf("proc %d lags by %d", i, p.Lag)
			}
		}
		if got := len(hang.deliveries()); got != 1 {
			t.Errorf("%d calls of the hanging processor, want 1", got)
		}
	})
}

// TestRetries: attempts come with growing delays, by the clock alone, with the same webhook-id, until the proc is
// disabled; after a success all begins anew.
func TestRetries(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		h.answer = func(w http.ResponseWriter, _ *http.Request, d delivery) {
			if d.Claim.Attempt < 4 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}
		n.serve(t, "hook", h)
		m.commit("in", numbered(2)...)
		m.system("a", "in", nil, "http://hook/")
		work(t, m, n, one)
		time.Sleep(time.Minute)
		var attempts []int
		ids := map[string]int{}
		for _, d := range h.deliveries() {
			attempts = append(attempts, d.Claim.Attempt)
			ids[d.id]++
		}
		if diff := cmp.Diff([]int{1, 2, 3, 4, 1, 2, 3, 4}, attempts); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]int{"msg_ns_1_0_0_0": 4, "msg_ns_1_0_1_1": 4}, ids); diff != "" {
			t.Error(diff)
		}
		if p := m.proc("a"); p.Lag != 0 || p.LastError != "" {
			t.Errorf("lag %d, lastError %q", p.Lag, p.LastError)
		}
	})
}

// TestDead: a processor that always fails is left alone after maxReclaims attempts.
func TestDead(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{answer: func(w http.ResponseWriter, _ *http.Request, _ delivery) { w.WriteHeader(http.StatusBadGateway) }}
		n.serve(t, "hook", h)
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://hook/")
		work(t, m, n, one)
		time.Sleep(24 * time.Hour)
		if p := m.proc("a"); p.Status != api.StatusDisabled || len(h.deliveries()) != 10 {
			t.Errorf("%s after %d attempts, want disabled after 10", p.Status, len(h.deliveries()))
		}
	})
}

// TestRetryAfterIsWaitedFor, and not a moment longer.
func TestRetryAfterIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		h.answer = func(w http.ResponseWriter, _ *http.Request, _ delivery) {
			if len(h.deliveries()) == 1 {
				w.Header().Set("Retry-After", "42")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
		n.serve(t, "hook", h)
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://hook/")
		work(t, m, n, one)
		time.Sleep(time.Minute)
		got := h.deliveries()
		if len(got) != 2 || got[1].at.Sub(got[0].at) != 42*time.Second || got[1].Claim.Attempt != 1 {
			t.Errorf("deliveries %v, want a second one after 42 s, attempt 1", got)
		}
	})
}

// TestLater: after a 202 the claim is the processor's, until it acks or the claim's time is over.
func TestLater(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{answer: func(w http.ResponseWriter, _ *http.Request, _ delivery) { w.WriteHeader(http.StatusAccepted) }}
		n.serve(t, "hook", h)
		m.commit("in", numbered(2)...)
		m.system("a", "in", nil, "http://hook/")
		n.serve(t, "other", &hook{})
		m.system("b", "in", []string{"out"}, "http://other/") // the slot is free for others meanwhile
		work(t, m, n, one)
		synctest.Wait()
		if p := m.proc("b"); p.Lag != 0 {
			t.Errorf("the other proc lags by %d", p.Lag)
		}
		time.Sleep(5 * time.Second)
		if got := len(h.deliveries()); got != 1 {
			t.Fatalf("%d deliveries while the claim lives, want 1", got)
		}
		if _, err := m.AckJob(t.Context(), "a", h.deliveries()[0].Claim.Token, nil, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := h.deliveries(); len(got) != 2 || got[1].id != "msg_ns_1_0_1_1" {
			t.Fatalf("deliveries %v, want the second log after the ack", got)
		}
		time.Sleep(12 * time.Second)
		if got := h.deliveries(); len(got) != 3 || got[2].id != "msg_ns_1_0_1_1" || got[2].Claim.Attempt != 2 {
			t.Errorf("deliveries %v, want the second log again after the claim's time-out", got)
		}
	})
}

// TestLostClaim: a call whose claim was lost meanwhile is cut off, and the logs are handed out again.
func TestLostClaim(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		h.answer = func(w http.ResponseWriter, r *http.Request, d delivery) {
			if d.Claim.Attempt == 1 {
				if err := m.change("a", func(p *api.Proc) error { return p.Reclaim(now(), d.Claim.Token) }); err != nil {
					t.Error(err)
				}
				<-r.Context().Done() // cut off, long before its time-out
				if took := time.Since(d.at); took > time.Second {
					t.Errorf("cut off after %v", took)
				}
			}
			_, _ = fmt.Fprintf(w, `{"attempt":%d}`, d.Claim.Attempt)
		}
		n.serve(t, "hook", h)
		m.commit("in", `{}`)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, Config{Workers: 1, Concurrency: 8})
		time.Sleep(5 * time.Second)
		if got, want := m.bodies("out"), `{"attempt":2}`; got != want {
			t.Errorf("output %s, want %s", got, want)
		}
		if h.twin {
			t.Error("two executions of one proc at a time")
		}
	})
}

// TestStaleLook: a look that began before a call tells nothing of its claim.
func TestStaleLook(t *testing.T) {
	turns := newTurns([]*seat{{}}, 8, func(string, *seat) {})
	turns.offer([]string{"a"}, turns.look())
	ctx, cut := context.WithCancelCause(t.Context())
	stale := turns.look()
	end := turns.begin("a", cut)
	turns.offer([]string{"a"}, stale)
	if err := context.Cause(ctx); err != nil {
		t.Errorf("the call is cut off: %v", err)
	}
	turns.offer([]string{"b"}, turns.look())
	if err := context.Cause(ctx); err != nil {
		t.Errorf("the call is cut off for another one's sake: %v", err)
	}
	turns.offer([]string{"a"}, turns.look())
	if err := context.Cause(ctx); !errors.Is(err, errLost) {
		t.Errorf("the call goes on: %v", err)
	}
	end()
	turns.offer([]string{"a"}, turns.look()) // on its way to the ack: nothing to cut off
}

// TestDestroyed: the proc is gone when its answer comes.
func TestDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{answer: func(http.ResponseWriter, *http.Request, delivery) {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.jobs, "a")
		}}
		n.serve(t, "hook", h)
		m.commit("in", `{}`)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, one)
		synctest.Wait()
		if got := len(h.deliveries()); got != 1 {
			t.Errorf("%d deliveries, want 1", got)
		}
	})
}

// TestUnknownAck: an ack without an answer, whether it was applied or not, is repeated until it has one. The processor is
// not called again, and the output is there once.
func TestUnknownAck(t *testing.T) {
	for _, applied := range []bool{true, false} {
		for _, code := range []api.Code{api.CodeUnavailable, api.CodeOverloaded} {
			t.Run(fmt.Sprintf("%s, applied %v", code, applied), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *memory, n *network) {
					h := &hook{}
					n.serve(t, "hook", h)
					acks := 0
					m.onAck = func([]api.NewLog) (bool, error) {
						if acks++; acks%4 != 0 {
							return applied, api.Errorf(code, "try again")
						}
						return true, nil
					}
					m.commit("in", numbered(3)...)
					m.system("a", "in", []string{"out"}, "http://hook/")
					work(t, m, n, one)
					time.Sleep(5 * time.Second)
					if diff := cmp.Diff(strings.Join(numbered(3), "\n"), m.bodies("out")); diff != "" {
						t.Error(diff)
					}
					if got := len(h.deliveries()); got != 3 || acks != 12 {
						t.Errorf("%d calls, want 3; %d acks, want 12", got, acks)
					}
				})
			})
		}
	}
}

// TestAckUntilExpiry: when the store does not come back in time, the claim times out and the logs are processed again.
func TestAckUntilExpiry(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		down := time.Now().Add(15 * time.Second)
		m.onAck = func([]api.NewLog) (bool, error) {
			if time.Now().Before(down) {
				return false, api.Errorf(api.CodeUnavailable, "the database does not answer")
			}
			return true, nil
		}
		m.commit("in", `{}`)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, one)
		time.Sleep(9 * time.Second)
		if got := len(h.deliveries()); got != 1 {
			t.Errorf("%d calls before the claim's expiry, want 1", got)
		}
		time.Sleep(3 * time.Second)
		if got := h.deliveries(); len(got) != 2 || got[0].id != got[1].id {
			t.Errorf("%d calls soon after the claim's expiry, want 2", len(got))
		}
		time.Sleep(5 * time.Second)
		if m.bodies("out") != `{}` {
			t.Errorf("output %s", m.bodies("out"))
		}
	})
}

// TestRefusedOutput: what the store refuses is a failed attempt; what went wrong inside is not told.
func TestRefusedOutput(t *testing.T) {
	tests := []struct {
		err    error
		reason string
	}{
		{api.Errorf(api.CodeTooLarge, "the commit is too large"), "the output could not be committed: the commit is too large"},
		{api.Errorf(api.CodeInternal, "secret"), "the output could not be committed"},
		{errors.New("secret"), "the output could not be committed"},
	}
	for _, tt := range tests {
		bubble(t, func(t *testing.T, m *memory, n *network) {
			n.serve(t, "hook", &hook{})
			m.onAck = func([]api.NewLog) (bool, error) { return false, tt.err }
			m.commit("in", `{}`)
			m.system("a", "in", []string{"out"}, "http://hook/")
			work(t, m, n, one)
			synctest.Wait()
			if p := m.proc("a"); p.LastError != tt.reason || p.Claim != nil || p.Reclaims != 1 {
				t.Errorf("lastError %q, %d reclaims, claim %v; want %q", p.LastError, p.Reclaims, p.Claim, tt.reason)
			}
		})
	}
}

// TestUnknownFailure: a failed attempt that could not be told is told again.
func TestUnknownFailure(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", replies(400, "", ""))
		tries := 0
		m.onFail = func() error {
			if tries++; tries < 3 {
				return api.Errorf(api.CodeUnavailable, "the database does not answer")
			}
			return nil
		}
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://hook/")
		work(t, m, n, one)
		time.Sleep(time.Second)
		if p := m.proc("a"); p.Status != api.StatusDisabled {
			t.Errorf("status %s after %d tries", p.Status, tries)
		}
	})
}

// TestStoreTrouble: looks and claims that fail are repeated, with pauses.
func TestStoreTrouble(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", &hook{})
		back := time.Now().Add(time.Minute)
		claims := 0
		m.onLook = func() error {
			if time.Now().Before(back) {
				return errors.New("no database")
			}
			return nil
		}
		m.onClaim = func(string) error {
			claims++
			if time.Now().Before(back.Add(time.Minute)) {
				return errors.New("no database")
			}
			return nil
		}
		m.commit("in", `{}`)
		m.system("a", "in", []string{"out"}, "http://hook/")
		work(t, m, n, one)
		time.Sleep(3 * time.Minute)
		if m.bodies("out") != `{}` {
			t.Errorf("output %q", m.bodies("out"))
		}
		if m.looks > 200 || claims > 200 {
			t.Errorf("%d looks, %d claims within two minutes of trouble", m.looks, claims)
		}
	})
}

// TestUnknownClaim: a claim without an answer, made all the same, is asked for again under its token. It has no time-out
// that would end it.
func TestUnknownClaim(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		trouble := 20
		m.afterClaim = func() error {
			if trouble--; trouble >= 0 {
				return api.Errorf(api.CodeUnavailable, "unknown")
			}
			return nil
		}
		m.commit("in", `{}`)
		m.system("a", "in", []string{"out"}, "http://hook/", func(j *job) { j.ReclaimTimeout = -1 })
		work(t, m, n, one)
		time.Sleep(time.Minute)
		if got := m.bodies("out"); got != `{}` || len(h.deliveries()) != 1 || m.made() != 1 {
			t.Errorf("output %q of %d deliveries and %d claims", got, len(h.deliveries()), m.made())
		}
	})
}

// TestClaimTrouble: a proc that cannot be claimed does not keep its slot from others.
func TestClaimTrouble(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", &hook{})
		m.onClaim = func(proc string) error {
			if proc == "a" {
				return errors.New("its topic is locked")
			}
			return nil
		}
		m.commit("in", numbered(2)...)
		m.system("a", "in", nil, "http://hook/")
		m.system("b", "in", []string{"out"}, "http://hook/")
		work(t, m, n, one)
		time.Sleep(10 * time.Second)
		if p := m.proc("b"); p.Lag != 0 {
			t.Errorf("the other proc lags by %d", p.Lag)
		}
	})
}

// TestLooksAreBounded: hints that come faster than looks make sense are merged.
func TestLooksAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		work(t, m, n, one)
		for range 1000 {
			m.commit("in", `{}`)
			time.Sleep(100 * time.Microsecond)
		}
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if most := int(100*time.Millisecond/lookGap) + 2; m.looks > most || m.looks < most-3 {
			t.Errorf("%d looks in 100 ms of hints, want about %d", m.looks, most)
		}
	})
}

// TestSlowLooksAreFewer: looks that take long, since there are many systemProcs, leave the database time for other things.
func TestSlowLooksAreFewer(t *testing.T) {
	for _, tt := range []struct {
		takes time.Duration
		most  int // in 10 s
	}{{20 * time.Millisecond, 126}, {time.Second, 7}, {400 * time.Microsecond, 1852}} {
		bubble(t, func(t *testing.T, m *memory, n *network) {
			m.onLook = func() error {
				time.Sleep(tt.takes)
				return nil
			}
			work(t, m, n, one)
			for range 10_000 {
				m.commit("in", `{}`)
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.looks > tt.most || m.looks < tt.most-3 {
				t.Errorf("%d looks of %v in 10 s of hints, want about %d", m.looks, tt.takes, tt.most)
			}
		})
	}
}

// TestUnknownKind: a processor that this server cannot run is a failed attempt.
func TestUnknownKind(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		m.commit("in", `{}`)
		m.system("a", "in", nil, "")
		work(t, m, n, one)
		synctest.Wait()
		if got, want := m.proc("a").LastError, "this server does not run processors of this kind"; got != want {
			t.Errorf("lastError %q, want %q", got, want)
		}
	})
}

// TestPanic: a fault of the program is a failed attempt, of which the log tells the stack, and the worker goes on.
func TestPanic(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, _ *network) {
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://a/")
		var log bytes.Buffer
		w := New(Config{Workers: 1, Concurrency: 1, Jobs: m, Watcher: m, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		f := &faulty{}
		w.hire = func() processors { return processors{webhook: f, close: func() {}} }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		if got, want := m.proc("a").LastError, "the processor could not be run"; got != want {
			t.Errorf("lastError %q, want %q", got, want)
		}
		time.Sleep(time.Hour) // it is tried again
		synctest.Wait()
		if got := m.proc("a"); got.Lag != 0 || f.calls != 2 {
			t.Errorf("after %d calls: %+v", f.calls, got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if told := log.String(); !strings.Contains(told, "panic: a fault") || !strings.Contains(told, "run_test.go") {
			t.Errorf("neither the cause nor the stack is told: %s", told)
		}
	})
}

// faulty is a processor whose first call panics.
type faulty struct{ calls int }

func (f *faulty) process(context.Context, *api.Execution) (answer, error) {
	if f.calls++; f.calls == 1 {
		panic("a fault")
	}
	return answer{}, nil
}

// TestRestartAfter: each worker makes its number of executions over connections of its own, which are closed when it
// ends; nothing is lost, nor called twice.
func TestRestartAfter(t *testing.T) {
	for _, tt := range []struct{ after, connections, restarts int }{{0, 1, 0}, {1, 10, 10}, {3, 4, 3}, {5, 2, 2}} {
		t.Run(fmt.Sprint(tt.after), func(t *testing.T) {
			opened, closed := make(chan struct{}, 100), make(chan struct{}, 100)
			h := &hook{}
			s := httptest.NewUnstartedServer(h)
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					opened <- struct{}{}
				case http.StateClosed:
					closed <- struct{}{}
				}
			}
			s.Start()
			defer s.Close()
			m := newMemory()
			m.commit("in", numbered(10)...)
			m.system("a", "in", []string{"out"}, s.URL)
			registry := prometheus.NewRegistry()
			w := New(Config{Jobs: m, Watcher: m, Workers: 1, Concurrency: 4, RestartAfter: tt.after, Metrics: registry,
				Reach: Reach{Loopback: true}})
			done := make(chan struct{})
			m.onAck = func(logs []api.NewLog) (bool, error) {
				if string(logs[0].Body) == `{"n":9}` {
					close(done)
				}
				return true, nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- w.Run(ctx) }()
			<-done
			for range tt.restarts {
				select {
				case <-closed:
				case <-ctx.Done():
					t.Fatal("the connections of a worker that ended are open")
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			for range tt.connections - tt.restarts {
				select {
				case <-closed:
				case <-time.After(time.Minute):
					t.Fatal("a connection was left open")
				}
			}

			if diff := cmp.Diff(strings.Join(numbered(10), "\n"), m.bodies("out")); diff != "" {
				t.Error(diff)
			}
			if len(opened) != tt.connections || len(h.got) != 10 {
				t.Errorf("%d connections, want %d; %d calls, want 10", len(opened), tt.connections, len(h.got))
			}
			if got := value(t, registry, "pipeproc_systemproc_worker_restarts_total"); got != float64(tt.restarts) {
				t.Errorf("%v restarts, want %d", got, tt.restarts)
			}
		})
	}
}

// TestRestartInFlight: a worker that has begun its last execution delays nobody: the fresh one has taken its place, and
// the old one's connections last until its executions have ended.
func TestRestartInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		release := make(chan struct{})
		h := &hook{answer: func(w http.ResponseWriter, _ *http.Request, d delivery) {
			if d.Proc == "a" {
				<-release
			}
			w.WriteHeader(http.StatusNoContent)
		}}
		n.serve(t, "hook", h)
		m.commit("in", numbered(1)...)
		m.commit("more", numbered(6)...)
		m.system("a", "in", nil, "http://hook/")
		m.system("b", "more", nil, "http://hook/")
		work(t, m, n, Config{Workers: 1, Concurrency: 2, RestartAfter: 2})
		synctest.Wait()
		if p := m.proc("b"); p.Lag != 0 {
			t.Errorf("proc b lags by %d behind the one that hangs", p.Lag)
		}
		close(release)
		synctest.Wait()
		if p := m.proc("a"); p.Lag != 0 {
			t.Errorf("proc a lags by %d", p.Lag)
		}
		if got := len(h.deliveries()); got != 7 {
			t.Errorf("%d deliveries, want 7", got)
		}
	})
}

// TestStopWaits: executions in flight end in their own time, their answers are committed, and no new one begins.
func TestStopWaits(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{answer: func(w http.ResponseWriter, _ *http.Request, d delivery) {
			time.Sleep(7 * time.Second)
			_, _ = w.Write(d.Logs[0].Body)
		}}
		n.serve(t, "hook", h)
		m.commit("in", numbered(2)...)
		m.system("a", "in", []string{"out"}, "http://hook/")
		stop := work(t, m, n, one)
		synctest.Wait()
		start := time.Now()
		stop()
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("stopped after %v, want 7 s", d)
		}
		p := m.proc("a")
		if m.bodies("out") != `{"n":0}` || p.Claim != nil || p.Position != 1 || m.made() != 1 {
			t.Errorf("output %s, claim %v, position %d, %d claims", m.bodies("out"), p.Claim, p.Position, m.made())
		}
	})
}

// TestStopCutsOff: after the grace calls are cut off; it is not held against the processor, and another server hands it
// the same logs under the same id, though more were committed meanwhile.
func TestStopCutsOff(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{answer: func(_ http.ResponseWriter, r *http.Request, d delivery) { <-r.Context().Done() }}
		n.serve(t, "hook", h)
		m.commit("in", numbered(2)...)
		timeout := int64(60_000)
		m.system("a", "in", []string{"out"}, "http://hook/", count(10), func(j *job) {
			j.ReclaimTimeout = 120_000
			j.processor.Timeout = &timeout
		})
		c := one
		c.Grace = 3 * time.Second
		stop := work(t, m, n, c)
		synctest.Wait()
		start := time.Now()
		stop()
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("stopped after %v, want 3 s", d)
		}
		if p := m.proc("a"); p.Claim != nil || p.Reclaims != 0 || p.Position != 0 {
			t.Errorf("claim %v, %d reclaims, position %d", p.Claim, p.Reclaims, p.Position)
		}
		m.commit("in", numbered(2)...)
		work(t, m, n, one)
		time.Sleep(time.Second)
		got := h.deliveries()
		if len(got) != 2 || got[1].id != got[0].id || len(got[1].Logs) != 2 || got[1].Claim.Attempt != 1 {
			t.Errorf("deliveries %v, want the same two logs again", got)
		}
	})
}

// TestStopUndoes: a claim whose processor was not called yet is given back.
func TestStopUndoes(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		h := &hook{}
		n.serve(t, "hook", h)
		ctx, cancel := context.WithCancel(t.Context())
		m.onClaim = func(string) error { cancel(); return nil }
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://hook/")
		<-run1(ctx, t, m, n, one)
		if p := m.proc("a"); p.Claim != nil || p.Reclaims != 0 || m.undone != 1 || len(h.got) != 0 {
			t.Errorf("claim %v, %d undone, %d calls", p.Claim, m.undone, len(h.got))
		}
	})
}

// TestStopWithoutStore: Run comes to its end also when the store does not answer.
func TestStopWithoutStore(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", &hook{})
		m.onAck = func([]api.NewLog) (bool, error) {
			return false, api.Errorf(api.CodeUnavailable, "the database does not answer")
		}
		m.commit("in", `{}`)
		m.system("a", "in", nil, "http://hook/", func(j *job) { j.ReclaimTimeout = -1 })
		stop := work(t, m, n, one)
		time.Sleep(time.Hour)
		start := time.Now()
		stop()
		if d := time.Since(start); d != DefaultGrace+settleTime {
			t.Errorf("stopped after %v, want %v", d, DefaultGrace+settleTime)
		}
	})
}

// TestRunAgain: Run may be called again after its end.
func TestRunAgain(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", &hook{})
		m.system("a", "in", []string{"out"}, "http://hook/")
		w := New(Config{Jobs: m, Watcher: m, Workers: 1, Concurrency: 1, Dial: n.dial})
		for i := range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- w.Run(ctx) }()
			m.commit("in", numbered(1)...)
			time.Sleep(time.Second) // the bubble's clock: looks for work keep a distance
			synctest.Wait()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if got := m.proc("a").Position; got != int64(i+1) {
				t.Errorf("position %d after run %d", got, i+1)
			}
		}
	})
}

// TestMetrics: executions are counted by how they ended.
func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, m *memory, n *network) {
		n.serve(t, "hook", &hook{})
		n.serve(t, "later", replies(202, "", ""))
		n.serve(t, "fail", replies(400, "", ""))
		m.commit("in", numbered(3)...)
		m.system("a", "in", nil, "http://hook/")
		m.system("b", "in", nil, "http://later/")
		m.system("c", "in", nil, "http://fail/")
		registry := prometheus.NewRegistry()
		c := one
		c.Metrics = registry
		work(t, m, n, c)
		synctest.Wait()
		got := map[string]float64{}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "pipeproc_systemproc_executions_total" {
				for _, metric := range f.GetMetric() {
					got[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
				}
			}
		}
		want := map[string]float64{"acked": 3, "deferred": 1, "failed": 1, "lost": 0, "undone": 0, "unknown": 0}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if got := value(t, registry, "pipeproc_systemproc_executions_in_flight"); got != 0 {
			t.Errorf("%v in flight", got)
		}
	})
}

// value is that of a counter or gauge without labels.
func value(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

package procs

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

// bodied is what an answer came to, whatever its body is like.
type bodied struct {
	status int
	to     []string
	acked  bool
	later  bool
	reason string
	after  time.Duration // when it is known, with a body that does not end
}

var everyAnswer = []bodied{
	{status: 200, to: []string{"out"}, reason: "the processor did not answer within 8000 ms", after: 8 * time.Second},
	{status: 200, acked: true, after: discardTime},
	{status: 202, to: []string{"out"}, later: true, after: discardTime},
	{status: 500, to: []string{"out"}, reason: "the processor answered 500", after: discardTime},
}

func (o *bodied) check(t *testing.T, m *memory) {
	t.Helper()
	p := m.proc("p")
	if acked := p.Position == 1; acked != o.acked {
		t.Errorf("acked: %v", acked)
	}
	if claimed := p.Claim != nil; claimed != o.later {
		t.Errorf("claimed: %v", claimed)
	}
	if p.LastError != o.reason {
		t.Errorf("lastError %q, want %q", p.LastError, o.reason)
	}
}

// An answer of 10 GiB: it is hung up on as soon as it is too much, or known to be of no use.
func TestGreatAnswers(t *testing.T) {
	const size, most = 10 << 30, 2 << 20
	for _, o := range everyAnswer {
		t.Run(fmt.Sprint(o.status, len(o.to)), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *memory, n *network) {
				written := make(chan int, 1)
				n.serve(t, "hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Length", fmt.Sprint(size))
					w.WriteHeader(o.status)
					sum := 0
					for chunk := bytes.Repeat([]byte(" "), 32<<10); sum < 32<<20; {
						n, err := w.Write(chunk)
						sum += n
						if err != nil {
							break
						}
					}
					select {
					case written <- sum:
					default:
					}
				}))
				m.commit("in", `{}`)
				m.system("p", "in", o.to, "http://hook/")
				began := time.Now()
				work(t, m, n, one)
				sum := <-written
				if took := time.Since(began); sum > most || took > 0 {
					t.Errorf("hung up on after %d bytes and %v", sum, took)
				}
				synctest.Wait()
				if o.status == 200 && len(o.to) > 0 {
					o.reason = fmt.Sprintf("the answer is over %d bytes", maxAnswer)
				}
				o.check(t, m)
			})
		})
	}
}

// An answer of one byte a second: whoever needs it waits for as long as a call may take; what its status says holds at once.
func TestSlowAnswers(t *testing.T) {
	for _, o := range everyAnswer {
		t.Run(fmt.Sprint(o.status, len(o.to)), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *memory, n *network) {
				n.serve(t, "hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(o.status)
					for tick := time.Tick(time.Second); ; {
						if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
							return
						}
						select {
						case <-tick:
						case <-r.Context().Done():
							return
						}
					}
				}))
				m.commit("in", `{}`)
				m.system("p", "in", o.to, "http://hook/")
				work(t, m, n, one)
				time.Sleep(o.after - time.Millisecond)
				synctest.Wait()
				if p := m.proc("p"); p.Claim == nil || p.Position > 0 {
					t.Errorf("it came to an end before %v", o.after)
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				o.check(t, m)
			})
		})
	}
}

// Half an answer, then nothing or a reset: none of it is committed, and the attempt is repeated.
func TestHalfAnswers(t *testing.T) {
	for _, form := range []string{"Content-Length: 40\r\n\r\n[{\"n\":1}", "Transfer-Encoding: chunked\r\n\r\n9\r\n[{\"n\":1},\r\n",
		"Transfer-Encoding: chunked\r\n\r\n9\r\n[{\"n\":1}]\r\n", "Content-Length: 0\r\nContent-Length: 9\r\n\r\n[{\"n\":1}]"} {
		bubble(t, func(t *testing.T, m *memory, n *network) {
			n.serve(t, "hook", hijack("HTTP/1.1 200 OK\r\n"+form))
			m.commit("in", `{}`)
			m.system("p", "in", []string{"out"}, "http://hook/")
			work(t, m, n, one)
			synctest.Wait()
			if p := m.proc("p"); p.Position != 0 || p.Reclaims != 1 || p.LastError != "the connection to the processor failed" || p.Status != api.StatusActive {
				t.Errorf("%q: the proc is %+v", form, p)
			}
			if out := m.bodies("out"); out != "" {
				t.Errorf("%q: committed %s", form, out)
			}
		})
	}
}

//go:build security && linux

package security

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHugeHeaders: more than 64 KiB of a header are refused before they are kept, wherever they are; what is less is bounded in
// number.
func TestHugeHeaders(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	const size = 4 << 20
	fields := func(n int, field string) string {
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, field, i)
		}
		return all.String()
	}
	s.under(bounds{memory: 128, goroutines: 1_500}, func() {
		var sending sync.WaitGroup
		for name, request := range map[string]string{
			"a value":             "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("x", size) + "\r\n\r\n",
			"a value without end": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("x", size),
			"a name":              "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("x", size) + ": a\r\n\r\n",
			"a path":              "GET /" + strings.Repeat("x", size) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"a query":             "GET /healthz?" + strings.Repeat("x=y&", size/4) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"a host":              "GET /healthz HTTP/1.1\r\nHost: " + strings.Repeat("x", size) + "\r\n\r\n",
			"fields":              "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + fields(200_000, "X-%d: y\r\n") + "\r\n",
			"fields of one name":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X:\r\n", 200_000) + "\r\n",
			"folded lines":        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n" + strings.Repeat(" b\r\n", size/4) + "\r\n",
		} {
			wires := s.wires(10) // 40 MB of each, none of which are kept
			sending.Go(func() {
				if err := atOnce(wires, func(w *wire) error {
					w.send(request)
					// The answer may be lost to one who goes on sending.
					if text, err := w.end(limit); err != nil || status(text) != http.StatusRequestHeaderFieldsTooLarge && text != "" {
						return fmt.Errorf("%.200q %w", text, err)
					}
					return nil
				}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		sending.Wait()
		for name, header := range map[string]string{
			"fields":             fields(5_000, "X-%d: y\r\n"),
			"fields of one name": strings.Repeat("X:\r\n", 12_000),
			"just too many":      fields(128, "X-%d: y\r\n"),
		} {
			for _, line := range []string{"GET /healthz", "GET /v1/tail?topic=t", "GET /nowhere"} {
				w := s.wire()
				w.send(line + " HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n" + header + "\r\n")
				all := w.answers("GET")
				if len(all) != 1 {
					t.Errorf("%s, %s: %d answers", name, line, len(all))
					continue
				}
				all[0].what = name + ", " + line
				all[0].isProblem(http.StatusBadRequest, "invalid_request")
			}
		}
		w := s.wire()
		w.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("x", 60<<10) + "\r\n" + fields(100, "X-%d: y\r\n") + "\r\n")
		if a, err := w.answer("GET"); err != nil || a.status != http.StatusOK {
			t.Errorf("as much as there may be: %v %v", a, err)
		}
	})
}

// TestHeadersThatStay: headers stay in memory for as long as their requests wait. Neither those with thousands of fields nor large
// ones make of a thousand streams what they could.
func TestHeadersThatStay(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	var fields strings.Builder
	for i := range 6_000 {
		fmt.Fprintf(&fields, "%d:\r\n", i)
	}
	s.under(bounds{memory: 448, goroutines: 3_000}, func() {
		var all []*wire
		for range 5 { // not all at once: those that wait for their turn would be taken for slow ones
			many, large := s.wires(200), s.wires(200)
			if err := atOnce(many, func(w *wire) error {
				w.send("GET /v1/tail?topic=t HTTP/1.1\r\nHost: localhost\r\n" + fields.String() + "\r\n")
				a, err := w.answer("GET")
				if err == nil && a.problem() != "invalid_request" {
					err = fmt.Errorf("%d %.200s", a.status, a.body)
				}
				return err
			}); err != nil {
				t.Error("many fields: ", err)
			}
			if err := atOnce(large, func(w *wire) error {
				w.send("GET /v1/tail?topic=t HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("x", 60<<10) + "\r\n\r\n")
				_ = w.SetReadDeadline(time.Now().Add(limit))
				line, err := w.r.ReadString('\n')
				if err == nil && line != "HTTP/1.1 200 OK\r\n" {
					err = fmt.Errorf("%q", line)
				}
				return err
			}); err != nil {
				t.Error("large ones: ", err)
			}
			all = append(all, append(many, large...)...)
		}
		for _, w := range all {
			w.reset()
		}
	})
}

//go:build security && linux

package security

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// maxRequest is what a request may have, maxBodies what those of all requests under way may take.
const maxRequest, maxBodies = 16 << 20, 512 << 20

// TestBodiesWithoutEnd: chunks that never end are refused when they are too many, and are taken only for a while longer.
func TestBodiesWithoutEnd(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	chunk := []byte("10000\r\n" + strings.Repeat(" ", 1<<16) + "\r\n")
	small := bytes.Repeat([]byte("4\r\n    \r\n"), 10_000)
	s.under(bounds{memory: 512, goroutines: 200}, func() {
		var all sync.WaitGroup
		for path, want := range map[string]struct {
			chunk  []byte
			status int
			code   string
		}{
			"POST /v1/topics/t/logs":     {chunk, http.StatusRequestEntityTooLarge, "too_large"},
			"POST /v1/commit":            {chunk, http.StatusRequestEntityTooLarge, "too_large"},
			"POST /v1/procs/p/claim":     {small, http.StatusRequestEntityTooLarge, "too_large"},
			"POST /nowhere":              {chunk, http.StatusNotFound, "not_found"},
			"GET /v1/topics":             {chunk, http.StatusRequestEntityTooLarge, "too_large"},
			"GET /v1/tail?topic=t":       {small, http.StatusRequestEntityTooLarge, "too_large"},
			"DELETE /v1/topics/t":        {chunk, http.StatusRequestEntityTooLarge, "too_large"},
			"PUT /v1/topics":             {chunk, http.StatusMethodNotAllowed, "method_not_allowed"},
			"POST /v1/topics/a.b/logs":   {chunk, http.StatusBadRequest, "invalid_topic_format"},
			"POST /v1/system-procs":      {small, http.StatusRequestEntityTooLarge, "too_large"},
			"POST /v1/stream-tickets":    {chunk, http.StatusRequestEntityTooLarge, "too_large"},
			"PATCH /v1/procs/p?nope=yes": {chunk, http.StatusBadRequest, "invalid_request"},
		} {
			w := s.wire()
			all.Go(func() {
				defer w.reset()
				var sending sync.WaitGroup
				var sent int64
				sending.Go(func() {
					n, err := fmt.Fprintf(w, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", path)
					for ; err == nil && sent < 1<<30; n, err = w.Write(want.chunk) {
						sent += int64(n)
					}
				})
				a, err := w.answer("POST")
				if err != nil {
					t.Errorf("%s: %v", path, err)
				} else {
					a.what = path
					a.isProblem(want.status, want.code)
				}
				_, _ = w.end(limit)
				sending.Wait()
				if sent > 3*5*maxRequest { // small chunks are longer by what is around them
					t.Errorf("%s: %d MiB were taken", path, sent>>20)
				}
			})
		}
		all.Wait()
	})
}

// TestManyLargeBodies: the bodies of all requests share 512 MiB. While hundreds send what is not yet whole, who finds no room is
// told so, and memory stays within its bound.
func TestManyLargeBodies(t *testing.T) {
	t.Parallel()
	s := launch(t)
	const size = 15 << 20
	head := fmt.Sprintf("POST /v1/topics/t/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", size)
	part := strings.Repeat(" ", 1<<20)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	s.under(bounds{memory: 1_200, goroutines: 1_000, refusals: []string{"overloaded"}}, func() {
		wires := s.wires(100)
		holding, asking := wires[:60], wires[60:]
		if err := atOnce(holding, func(w *wire) error {
			w.send(head)
			for range size/len(part) - 1 { // and never the rest
				if _, err := io.WriteString(w, part); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error("those who do not end: ", err)
		}
		f, err := s.figures()
		if err != nil || f.bodies > maxBodies || f.bodies < maxBodies/2 {
			t.Errorf("%d MiB of bodies are held, %v", f.bodies>>20, err)
		}
		t.Logf("%d MiB of bodies are held; RSS %d MiB", f.bodies>>20, f.rss>>20)
		var refused atomic.Int32
		if err := atOnce(asking, func(w *wire) error {
			w.send(head)
			for range size / len(part) {
				w.send(part)
			}
			a, err := w.answer("POST")
			switch {
			case err != nil:
				return err
			case a.problem() == "overloaded" && a.header.Get("Retry-After") != "":
				refused.Add(1)
			case a.problem() != "invalid_request": // who finds room after all has sent no JSON
				return fmt.Errorf("%d %v %.200s", a.status, a.header, a.body)
			}
			return nil
		}); err != nil {
			t.Error("those who come then: ", err)
		}
		if n := refused.Load(); n < int32(len(asking)/2) {
			t.Errorf("%d of %d were refused", n, len(asking))
		}
		for _, w := range wires {
			w.reset()
		}
	})
}

// TestPromisedBodies: to tell of a large body costs the server nothing before it comes.
func TestPromisedBodies(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.under(bounds{memory: 96, goroutines: 2_500}, func() {
		wires := s.wires(1_000)
		for i, w := range wires {
			length := []string{"Content-Length: 16000000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\nffffff\r\n{", "Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{"}[i%3]
			w.send("POST /v1/commit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + length)
		}
		s.eventually("all are being read", func() bool { f, err := s.figures(); return err == nil && f.bodies >= 1_000*16<<10 })
		for _, w := range wires {
			w.reset()
		}
	})
}

// TestCompressedBodies: nothing is inflated, whatever it is called.
func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	s := launch(t, "--allow-shutdown")
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	bomb := strings.Repeat(" ", 64<<20) // which is 64 KiB when it is compressed
	packed := map[string]string{}
	for name, pack := range map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		"raw":     func(w io.Writer) io.WriteCloser { z, _ := flate.NewWriter(w, 6); return z },
	} {
		var b bytes.Buffer
		z := pack(&b)
		if _, err := io.WriteString(z, bomb); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		packed[name] = b.String()
	}
	s.under(bounds{memory: 64, goroutines: 200}, func() {
		for _, r := range bodyRoutes(t) {
			for coding, body := range map[string]string{"gzip": packed["gzip"], "x-gzip": packed["gzip"], "GZIP": packed["gzip"],
				"deflate": packed["deflate"], "deflate, gzip": packed["raw"], "br": packed["raw"], "zstd": packed["gzip"], "identity, gzip": packed["gzip"],
				"compress": packed["raw"], "x": "{}"} {
				a := s.call(r.method, r.path, body, "Content-Encoding", coding)
				a.what += " " + coding
				a.isProblem(http.StatusUnsupportedMediaType, "unsupported_media_type")
			}
			// Not called so, it is no JSON. As a coding of the transfer it is none that is known.
			a := s.call(r.method, r.path, packed["gzip"])
			if code := a.problem(); a.status != http.StatusBadRequest || code != "invalid_request" {
				t.Errorf("%s %s: %d %.200s", r.method, r.path, a.status, a.body)
			}
			w := s.wire()
			w.send(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
				r.method, r.path, len(packed["gzip"]), packed["gzip"]))
			if all := w.answers("POST"); len(all) > 1 || len(all) == 1 && all[0].status != http.StatusNotImplemented {
				t.Errorf("%s %s: a coding of the transfer is answered", r.method, r.path) // as long as the answer is not lost
			}
		}
	})
}

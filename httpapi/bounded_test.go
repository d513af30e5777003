package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

// A body that is announced where none is wanted, and does not come, is waited for as long as any other.
func TestUnwantedBodyThatDoesNotCome(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
		for _, header := range []string{"Content-Length: 10", "Transfer-Encoding: chunked", "Content-Length: 10\r\nExpect: 100-continue"} {
			synctest.Test(t, func(t *testing.T) {
				conn := inMemory(t, New(Config{}))
				begun := time.Now()
				fmt.Fprintf(conn, "%s /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", method, header)
				in := bufio.NewReader(conn)
				resp, err := http.ReadResponse(in, &http.Request{Method: method})
				if err == nil && resp.StatusCode == http.StatusContinue {
					resp, err = http.ReadResponse(in, &http.Request{Method: method})
				}
				if err != nil {
					t.Fatal(method, header, err)
				}
				defer resp.Body.Close()
				if took := time.Since(begun); resp.StatusCode != 400 || took != readTimeout || !resp.Close {
					t.Errorf("%s %q: %d after %v, close %t", method, header, resp.StatusCode, took, resp.Close)
				}
			})
		}
	}
}

// One that was asked for, and then refused, is waited for a moment alone.
func TestRefusedBodyThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := inMemory(t, New(Config{}))
		begun := time.Now()
		fmt.Fprintf(conn, "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
		text, err := io.ReadAll(conn)
		if took := time.Since(begun); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 404 ") || took > 2*time.Second {
			t.Errorf("%q, %v after %v", text, err, took)
		}
	})
}

func TestUnwantedBody(t *testing.T) {
	s := New(Config{})
	if a := call(t, s, "GET", "/healthz", strings.Repeat("x", step-1)); a.status != 200 {
		t.Errorf("a body that comes: %d: %s", a.status, a.body)
	}
	call(t, s, "GET", "/healthz", strings.Repeat("x", step)).wantsProblem(t, 413, api.CodeTooLarge)
}

func TestHeaderFields(t *testing.T) {
	s := New(Config{})
	for _, one := range []bool{false, true} {
		r := request("GET", "/healthz", "")
		for i := range maxFields - len(r.Header) {
			name := fmt.Sprint("X-", i)
			if one {
				name = "X-0"
			}
			r.Header.Add(name, "x")
		}
		if a := do(t, s, r); a.status != 200 {
			t.Errorf("as many as there may be: %d: %s", a.status, a.body)
		}
		r.Header.Add("X-0", "x")
		a := do(t, s, r)
		a.wantsProblem(t, 400, api.CodeInvalidRequest)
		if a.header.Get("Connection") != "close" {
			t.Error("the connection is kept")
		}
	}
}

// Large logs that are read as lines take of a room, which is given back. Who finds none is told so, or, later on, cut off.
func TestRoomOfLines(t *testing.T) {
	s := fake{n: 5, size: 1 << 20}.server()
	s.lines.most = 16 << 20
	if a := call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines); a.status != 200 || s.lines.held.Load() != 0 {
		t.Errorf("%d; %d bytes are held", a.status, s.lines.held.Load())
	}
	s.lines.most = 1 << 20
	call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines).wantsProblem(t, 503, api.CodeOverloaded)
	if held := s.lines.held.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	// Small logs need none.
	small := fake{n: 5_000, size: 100}
	s = small.server()
	s.lines.most = 0
	if a := call(t, s, "GET", "/v1/topics/t/logs", "", wantsLines); a.body != small.lines(false) {
		t.Errorf("%d, %d bytes", a.status, len(a.body))
	}

	x := &lines{room: &room{most: 10 * ownLines}, size: firstPage}
	if x.hold(ownLines/2) != nil || x.held != 0 {
		t.Errorf("what is its own holds %d", x.held)
	}
	if err := x.hold(3 * ownLines); err != nil || x.held != 5*ownLines || x.room.held.Load() != x.held {
		t.Errorf("%d, %v", x.held, err)
	}
	var e *api.Error
	if err := x.hold(6 * ownLines); !errors.As(err, &e) || e.Code != api.CodeOverloaded || x.held != 5*ownLines {
		t.Errorf("%d, %v", x.held, err)
	}
	if err := x.hold(0); err != nil || x.room.held.Load() != 0 {
		t.Errorf("%d, %v", x.held, err)
	}
}

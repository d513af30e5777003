//go:build security && linux

package security

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is a connection on which frames of HTTP/2 are sent as they are. What the server sends is read at once, and counted.
type frames struct {
	*wire
	*http2.Framer
	fields *hpack.Encoder
	block  bytes.Buffer

	over   chan struct{} // closed at the connection's end
	mu     sync.Mutex
	got    map[http2.FrameType]int
	status map[uint32]string // of the streams that were answered
	goAway http2.ErrCode     // the reason that was given for the end
}

// frames opens a connection, and has begun to speak.
func (s *server) frames(config *tls.Config) *frames {
	s.t.Helper()
	w := s.secure(config, "h2")
	f := &frames{wire: w, Framer: http2.NewFramer(w, w.r), over: make(chan struct{}), got: map[http2.FrameType]int{},
		status: map[uint32]string{}}
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.fields = hpack.NewEncoder(&f.block)
	f.send(http2.ClientPreface)
	_ = f.WriteSettings()
	reading := sync.WaitGroup{}
	reading.Go(f.read)
	s.t.Cleanup(func() {
		w.Close()
		reading.Wait()
	})
	return f
}

func (f *frames) read() {
	defer close(f.over)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.got[frame.Header().Type]++
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			f.status[frame.StreamID] = frame.PseudoValue("status")
		case *http2.GoAwayFrame:
			f.goAway = frame.ErrCode
		}
		f.mu.Unlock()
	}
}

// answers waits until a stream has had this status.
func (f *frames) answers(stream uint32, status string) error {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		f.mu.Lock()
		got := f.status[stream]
		f.mu.Unlock()
		switch {
		case got == status:
			return nil
		case got != "", time.Now().After(end), f.isOver():
			return fmt.Errorf("stream %d is answered with %q, not %q", stream, got, status)
		}
	}
}

// header is a request's, encoded.
func (f *frames) header(method, path string, more ...string) []byte {
	f.block.Reset()
	all := append([]string{":method", method, ":scheme", "https", ":authority", f.RemoteAddr().String(), ":path", path}, more...)
	for i := 0; i < len(all); i += 2 {
		_ = f.fields.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1], Sensitive: true}) // not in the table
	}
	return bytes.Clone(f.block.Bytes())
}

// flood calls write until it fails, or n times, at most for this long; it answers how often that was.
func (f *frames) flood(n int, long time.Duration, write func(i int) error) int {
	_ = f.SetWriteDeadline(time.Now().Add(long))
	for i := range n {
		if write(i) != nil {
			return i
		}
	}
	return n
}

// ended waits for the connection's end.
func (f *frames) ended(d time.Duration) error {
	select {
	case <-f.over:
	case <-time.After(d):
		if !f.isOver() {
			return errors.New("the connection goes on")
		}
	}
	return nil
}

func (f *frames) isOver() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// TestHTTP2Floods: what costs a client next to nothing to ask for costs the server little. Each flood goes over several
// connections at once; those that no client has a reason for are cut off.
func TestHTTP2Floods(t *testing.T) {
	t.Parallel()
	s, config := launchTLS(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(201)
	const connections = 8
	for _, flood := range []struct {
		name   string
		memory int64
		send   func(f *frames) (sent int, err error)
	}{
		{"rapid reset", 96, func(f *frames) (int, error) {
			h := f.header("GET", "/v1/topics/t/logs")
			n := f.flood(20_000, 2*time.Second, func(i int) error {
				id := uint32(2*i + 1)
				return errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h, EndStream: true, EndHeaders: true}),
					f.WriteRSTStream(id, http2.ErrCodeCancel))
			})
			return n, nil
		}},
		{"rapid reset by mistakes", 96, func(f *frames) (int, error) {
			h := f.header("GET", "/v1/topics/t/logs")
			n := f.flood(20_000, 2*time.Second, func(i int) error {
				id := uint32(2*i + 1) // that the server resets itself
				return errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h, EndHeaders: true}),
					f.WriteWindowUpdate(id, 1<<31-1))
			})
			return n, nil
		}},
		{"more streams than there may be", 96, func(f *frames) (int, error) {
			h := f.header("POST", "/v1/wait", "content-type", "application/json")
			n := f.flood(2_000, 2*time.Second, func(i int) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: h, EndHeaders: true})
			})
			return n, nil
		}},
		{"CONTINUATION without end", 64, func(f *frames) (int, error) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.header("GET", "/healthz")})
			f.block.Reset()
			_ = f.fields.WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("x", 8<<10), Sensitive: true})
			part := bytes.Clone(f.block.Bytes())
			n := f.flood(10_000, 2*time.Second, func(int) error { return f.WriteContinuation(1, false, part) })
			return n, f.ended(limit)
		}},
		{"empty CONTINUATION without end", 64, func(f *frames) (int, error) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.header("GET", "/healthz")})
			n := f.flood(500_000, 2*time.Second, func(int) error { return f.WriteContinuation(1, false, nil) })
			return n, nil
		}},
		{"a header that grows when it is decoded", 64, func(f *frames) (int, error) {
			enlarged := f.header("GET", "/healthz")
			f.block.Reset() // one field into the table, and then a thousand times a byte that means it
			_ = f.fields.WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("x", 3<<10)})
			enlarged = append(enlarged, f.block.Bytes()...)
			enlarged = append(enlarged, bytes.Repeat([]byte{0x80 | 62}, 10_000)...)
			n := f.flood(50, 2*time.Second, func(i int) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: enlarged, EndStream: true, EndHeaders: true})
			})
			return n, f.answers(1, "431")
		}},
		{"changes of the table's size", 64, func(f *frames) (int, error) {
			h := bytes.Repeat([]byte{0x3f, 0xe1, 0x1f, 0x20}, 4_000)
			n := f.flood(100, 2*time.Second, func(i int) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: h, EndStream: true, EndHeaders: true})
			})
			return n, nil
		}},
		{"SETTINGS", 64, func(f *frames) (int, error) {
			n := f.flood(100_000, time.Second, func(i int) error {
				return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i % 65_536)})
			})
			return n, nil
		}},
		{"PING", 64, func(f *frames) (int, error) {
			return f.flood(100_000, time.Second, func(int) error { return f.WritePing(false, [8]byte{}) }), nil
		}},
		{"PRIORITY", 64, func(f *frames) (int, error) {
			n := f.flood(100_000, time.Second, func(i int) error {
				return f.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 3), Weight: 7})
			})
			return n, nil
		}},
		{"empty DATA", 64, func(f *frames) (int, error) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
				BlockFragment: f.header("POST", "/v1/topics/t/logs", "content-type", "application/json")})
			return f.flood(100_000, time.Second, func(int) error { return f.WriteData(1, false, nil) }), nil
		}},
		{"PUSH_PROMISE", 64, func(f *frames) (int, error) {
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: f.header("GET", "/healthz"), EndHeaders: true})
			return 1, f.ended(limit)
		}},
		{"a frame that is too large", 64, func(f *frames) (int, error) {
			_ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20))
			return 1, f.ended(limit)
		}},
		{"a length that is not the body's", 64, func(f *frames) (int, error) {
			for i, body := range []string{`{"n":1}`, `{}`} {
				id := uint32(2*i + 1)
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true,
					BlockFragment: f.header("POST", "/v1/topics/t/logs", "content-type", "application/json", "content-length", fmt.Sprint(4-i))})
				_ = f.WriteData(id, true, []byte(body))
			}
			return 2, f.answers(3, "400") // and nothing is committed
		}},
		{"headers of HTTP/1", 64, func(f *frames) (int, error) {
			for i, field := range [][]string{{"transfer-encoding", "chunked"}, {"connection", "close"}, {"Content-Length", "2"}, {"x-a", "a\r\nx-b: c"},
				{"x a", "b"}, {":path", "/v1/topics"}, {":x", "y"}, {"host", "other.example"}} {
				id := uint32(2*i + 1)
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true,
					BlockFragment: f.header("POST", "/v1/topics/t/logs", append([]string{"content-type", "application/json"}, field...)...)})
				_ = f.WriteData(id, true, []byte("{"))
			}
			return 8, nil
		}},
	} {
		s.under(bounds{memory: flood.memory, goroutines: connections*260 + 100}, func() {
			var all sync.WaitGroup
			sent := make([]int, connections)
			ended := 0
			var mu sync.Mutex
			opened := make([]*frames, connections)
			for i := range opened {
				opened[i] = s.frames(config)
			}
			for i, f := range opened {
				all.Go(func() {
					n, err := flood.send(f)
					if err != nil {
						t.Errorf("%s: %v", flood.name, err)
					}
					sent[i] = n
					mu.Lock()
					defer mu.Unlock()
					if f.isOver() {
						ended++
					}
				})
			}
			all.Wait()
			for _, f := range opened {
				f.Close()
			}
			t.Logf("%s: %d frames, %d of %d connections cut off", flood.name, sent, ended, connections)
		})
	}
}

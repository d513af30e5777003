//go:build security && linux

package security

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// figures are what the server takes.
type figures struct {
	rss, heap   int64 // bytes
	goroutines  int64
	connections int64 // by TCP
	streams     int64
	bodies      int64 // bytes
}

func (f figures) String() string {
	return fmt.Sprintf("heap %d MiB, %d goroutines, %d connections, %d streams, %d MiB of bodies", f.heap>>20, f.goroutines,
		f.connections, f.streams, f.bodies>>20)
}

// most is the greater one of each.
func (f figures) most(g figures) figures {
	return figures{max(f.rss, g.rss), max(f.heap, g.heap), max(f.goroutines, g.goroutines), max(f.connections, g.connections),
		max(f.streams, g.streams), max(f.bodies, g.bodies)}
}

// nearly tells that f is about what the server took at rest.
func (f figures) nearly(rest figures) bool {
	return f.heap <= rest.heap+leftMemory && f.goroutines <= rest.goroutines+leftGoroutines && f.streams <= rest.streams && f.bodies == 0
}

// figures asks for them, through the Unix socket.
func (s *server) figures() (f figures, err error) {
	a, err := s.try(s.aside, "GET", "/metrics", "")
	if err != nil {
		return f, err
	}
	if a.status != http.StatusOK {
		return f, fmt.Errorf("%d %s", a.status, a.body)
	}
	f.heap, f.goroutines = a.metric("go_memstats_heap_alloc_bytes"), a.metric("go_goroutines")
	f.connections, f.streams = a.metric("pipeproc_connections_open"), a.metric("pipeproc_streams_open")
	f.bodies = a.metric("pipeproc_http_bodies_bytes")
	f.rss, err = s.status("VmRSS")
	return f, err
}

// metric is the sum of what a metric has over all its labels.
func (a *answer) metric(name string) (sum int64) {
	for line := range strings.Lines(a.body) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, _ := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
		sum += int64(value)
	}
	return sum
}

// resting is figures of now that garbage was collected, and that our own idle connections are closed.
func (s *server) resting() figures {
	s.t.Helper()
	s.straight.CloseIdleConnections()
	s.profile("heap?gc=1")
	f, err := s.figures()
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// goroutines tells where the server's goroutines are.
func (s *server) goroutines() string { return s.profile("goroutine?debug=1") }

func (s *server) profile(name string) string {
	s.t.Helper()
	res, err := http.Get(s.profiles + name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s %v", name, res.Status, err)
	}
	return string(text)
}

// peakRSS is the most memory that the process had since resetPeak, in bytes.
func (s *server) peakRSS() int64 {
	s.t.Helper()
	peak, err := s.status("VmHWM")
	if err != nil {
		s.t.Fatal(err)
	}
	return peak
}

func (s *server) resetPeak() {
	s.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid), []byte("5"), 0); err != nil {
		s.t.Fatal(err)
	}
}

// status reads a size that the kernel tells of the process, in bytes.
func (s *server) status(name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc tells no %s", name)
}

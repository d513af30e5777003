package livestream

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"pipeproc/api"
)

func from(address string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = address
	return r
}

func TestAddressOf(t *testing.T) {
	for remote, want := range map[string]string{
		"127.0.0.1:80": "127.0.0.1", "[::1]:80": "::1", "[::ffff:10.0.0.1]:5": "10.0.0.1", "[fe80::1%eth0]:5": "fe80::1%eth0",
	} {
		if got := addressOf(from(remote)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s", remote, got)
		}
	}
	for _, remote := range []string{"", "@", "/run/x.sock"} { // Unix sockets
		if got := addressOf(from(remote)); got != (netip.Addr{}) {
			t.Errorf("%q: %s", remote, got)
		}
	}
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		most, perAddress int
		from             []string
		want             []api.Code
	}{
		"none":        {0, 0, []string{"a", "a", "a", "@"}, []api.Code{"", "", "", ""}},
		"in all":      {2, 0, []string{"a", "b", "c", "a"}, []api.Code{"", "", api.CodeOverloaded, api.CodeOverloaded}},
		"per address": {0, 1, []string{"a", "b", "a", "b"}, []api.Code{"", "", api.CodeRateLimited, api.CodeRateLimited}},
		"sockets":     {0, 1, []string{"@", "", "a"}, []api.Code{"", api.CodeRateLimited, ""}},
		"both":        {2, 1, []string{"a", "b", "a", "c"}, []api.Code{"", "", api.CodeRateLimited, api.CodeOverloaded}},
	} {
		l := limits{most: c.most, perAddress: c.perAddress, addresses: map[netip.Addr]int{}}
		for range 3 { // what is given back can be taken again
			var releases []func()
			for i, address := range c.from {
				if address != "" && address != "@" {
					address = "10.0.0." + string(rune(address[0]-'a'+'1')) + ":99"
				}
				release, err := l.take(from(address), false)
				if api.CodeOf(err) != c.want[i] {
					t.Errorf("%s: %d: %v, want %q", name, i, err, c.want[i])
				}
				if err == nil {
					releases = append(releases, release)
				} else if e := err.(*api.Error); e.RetryAfter <= 0 {
					t.Errorf("%s: %d: when to come again is not told", name, i)
				}
			}
			for _, release := range releases {
				release()
			}
		}
		if l.open != 0 || len(l.addresses) != 0 {
			t.Errorf("%s: %d of %v are left", name, l.open, l.addresses)
		}
	}
}

func TestLimitsAtOnce(t *testing.T) {
	s := New(Config{MaxStreams: 10, MaxStreamsPerAddress: 7})
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			address := "10.0.0.1:1"
			if i%2 == 0 {
				address = "10.0.0.2:1"
			}
			for range 1000 {
				done, err := s.Admit(from(address))
				if err != nil {
					continue
				}
				if n := s.Stats().Ranges; n < 1 || n > 10 {
					t.Errorf("%d are open", n)
				}
				done()
			}
		})
	}
	all.Wait()
	if got := s.Stats(); got != (Stats{}) || s.limits.open != 0 || len(s.limits.addresses) != 0 {
		t.Errorf("%+v and %d of %v are left", got, s.limits.open, s.limits.addresses)
	}
	s.Close()
	if _, err := s.Admit(from("10.0.0.1:1")); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("after Close: %v", err)
	}
}

// All kinds of streams count, a refused one makes nothing, and each is counted out however it ends.
func TestLimitedStreams(t *testing.T) {
	for _, c := range []struct {
		limit  func(*Config)
		status int
		code   api.Code
	}{
		{func(c *Config) { c.MaxStreams = 2 }, 503, api.CodeOverloaded},
		{func(c *Config) { c.MaxStreamsPerAddress = 2 }, 429, api.CodeRateLimited},
	} {
		m := newMemory()
		s := newServer(t, m, c.limit)
		live := s.open(t, "/v1/topics/a/live?mode=all", "")
		tail := s.open(t, "/v1/tail?topic=a", "")
		for _, path := range []string{"/v1/tail?topic=b", "/v1/topics/a/live?mode=all"} {
			s.refused(t, path, "", c.status, c.code)
		}
		s.refused(t, "/v1/tail?topic=b&topic=b", "", 400, api.CodeInvalidRequest) // what is wrong in any case goes before
		m.mu.Lock()
		if len(m.live) != 1 {
			t.Errorf("a refused stream made a liveProc: %d", len(m.live))
		}
		m.mu.Unlock()
		tail.close()
		eventually(t, "its place is free", func() bool { return s.Stats().Tails == 0 })
		tail = s.open(t, "/v1/tail?topic=a", "")
		if _, err := s.Admit(from("127.0.0.1:1")); api.CodeOf(err) != c.code {
			t.Errorf("one that is served elsewhere: %v", err)
		}
		live.close()
		eventually(t, "its place is free", func() bool { return s.Stats().LiveProcs == 0 })
		done, err := s.Admit(from("127.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		s.refused(t, "/v1/tail?topic=b", "", c.status, c.code)
		done()
		s.open(t, "/v1/tail?topic=b", "")
		tail.close()
	}
}

// A stream that replaces another of this server's is no stream more: a limit that is reached does not refuse it, since an
// EventSource that is refused does not come again. A third one is, until the first has ended.
func TestReplacingStreamsAtTheLimit(t *testing.T) {
	for _, c := range []struct {
		limit  func(*Config)
		status int
		code   api.Code
	}{
		{func(c *Config) { c.MaxStreams = 2 }, 503, api.CodeOverloaded},
		{func(c *Config) { c.MaxStreamsPerAddress = 2 }, 429, api.CodeRateLimited},
	} {
		m := newMemory()
		s := newServer(t, m, c.limit)
		_, path := liveProc(t, m, "a", api.ModeAll)
		one, live := s.open(t, path, ""), s.open(t, "/v1/topics/a/live", "")
		id, liveID := one.next("liveproc").ID, live.next("liveproc").ID
		_, elsewhere := liveProc(t, m, "a", api.ModeAll)
		s.refused(t, elsewhere, "", c.status, c.code)
		s.refused(t, elsewhere, strings.Split(elsewhere, "/")[3]+":1:", c.status, c.code)
		s.refused(t, "/v1/tail?topic=a", "", c.status, c.code)
		for range 3 {
			again, liveAgain := s.open(t, path, id), s.open(t, "/v1/topics/a/live", liveID)
			for _, old := range []*stream{one, live} {
				old.next("end")
				old.ends()
			}
			again.next("liveproc")
			liveAgain.next("liveproc")
			eventually(t, "those that were replaced are gone", func() bool { return s.Stats().LiveProcs == 2 })
			s.refused(t, "/v1/tail?topic=a", "", c.status, c.code)
			one, live = again, liveAgain
		}
		done := make([]func(), 2)
		for i := range done { // two streams of one liveProc, as long as the first does not end
			_, f, err := s.begin(from("127.0.0.1:1"), &s.liveProcs, strings.Split(path, "/")[3])
			if i == 0 && err != nil || i == 1 && api.CodeOf(err) != c.code {
				t.Errorf("%d more: %v", i+1, err)
			}
			done[i] = f
		}
		done[0]()
		one.close()
		live.close()
		eventually(t, "nothing is left", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.limits.mu.Lock()
			defer s.limits.mu.Unlock()
			return s.limits.open == 0 && len(s.limits.addresses) == 0 && len(s.streams) == 0
		})
	}
}

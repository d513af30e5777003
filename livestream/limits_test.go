package livestream

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"pipeproc/api"
)

// from is who calls from an address, with a key behind a slash if there is one; "@" is a Unix socket.
func from(address string) *api.Caller {
	address, key, _ := strings.Cut(address, "/")
	c := &api.Caller{Key: key}
	if address != "@" {
		c.Address = netip.MustParseAddr(address)
	}
	return c
}

func request(address string) *http.Request {
	return httptest.NewRequestWithContext(api.WithCaller(context.Background(), *from(address)), "GET", "/", nil)
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		most, perAddress, perKey int
		from                     []string
		want                     []api.Code
	}{
		"none":        {0, 0, 0, []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "@"}, []api.Code{"", "", "", ""}},
		"in all":      {2, 0, 0, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"}, []api.Code{"", "", api.CodeOverloaded, api.CodeOverloaded}},
		"per address": {0, 1, 0, []string{"10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"}, []api.Code{"", "", api.CodeRateLimited, api.CodeRateLimited}},
		"sockets":     {0, 1, 0, []string{"@", "@", "10.0.0.1"}, []api.Code{"", api.CodeRateLimited, ""}},
		"both":        {2, 1, 0, []string{"10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"}, []api.Code{"", "", api.CodeRateLimited, api.CodeOverloaded}},
		"per key": {0, 0, 1, []string{"10.0.0.1/k", "10.0.0.2/k", "10.0.0.2/l", "10.0.0.1", "10.0.0.1"},
			[]api.Code{"", api.CodeRateLimited, "", "", ""}},
		"a network of IPv6": {0, 1, 0, []string{"2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"},
			[]api.Code{"", api.CodeRateLimited, ""}},
		"IPv4 in IPv6": {0, 1, 0, []string{"10.0.0.1", "::ffff:10.0.0.1"}, []api.Code{"", api.CodeRateLimited}},
	} {
		l := newLimits(&Config{MaxStreams: c.most, MaxStreamsPerAddress: c.perAddress, MaxStreamsPerKey: c.perKey})
		for range 3 { // what is given back can be taken again
			var releases []func()
			for i, address := range c.from {
				release, err := l.take(from(address), false)
				if api.CodeOf(err) != c.want[i] {
					t.Errorf("%s: %d: %v, want %q", name, i, err, c.want[i])
				}
				if err == nil {
					releases = append(releases, release)
				} else if e := err.(*api.Error); e.RetryAfter <= 0 {
					t.Errorf("%s: %d: when to come again is not told", name, i)
				} else if (e.Code == api.CodeRateLimited) != (e.Quota != nil && e.Quota.Most == 1) {
					t.Errorf("%s: %d: %s with the quota %+v", name, i, e.Code, e.Quota)
				}
			}
			for _, release := range releases {
				release()
			}
		}
		if l.open != 0 || len(l.addresses) != 0 || len(l.keys) != 0 {
			t.Errorf("%s: %d of %v are left", name, l.open, l.addresses)
		}
	}
}

func TestLimitsAtOnce(t *testing.T) {
	s := New(Config{MaxStreams: 10, MaxStreamsPerAddress: 7})
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			address := "10.0.0.1"
			if i%2 == 0 {
				address = "10.0.0.2"
			}
			for range 1000 {
				done, err := s.Admit(request(address))
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
	if _, err := s.Admit(request("10.0.0.1")); api.CodeOf(err) != api.CodeUnavailable {
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
		if _, err := s.Admit(request("127.0.0.1")); api.CodeOf(err) != c.code {
			t.Errorf("one that is served elsewhere: %v", err)
		}
		live.close()
		eventually(t, "its place is free", func() bool { return s.Stats().LiveProcs == 0 })
		done, err := s.Admit(request("127.0.0.1"))
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
			_, f, err := s.begin(request("127.0.0.1"), &s.liveProcs, strings.Split(path, "/")[3])
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

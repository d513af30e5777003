package httpapi

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{RateLimit: 3, Topics: topics{topic: func(string) (api.Topic, error) { return api.Topic{}, nil }}})
		from := func(address string) answered {
			t.Helper()
			r := request("GET", "/v1/topics/t", "")
			r.RemoteAddr = address
			return do(t, s, r)
		}
		for range 2 {
			for left := range 3 {
				a := from("192.0.2.1:1")
				if a.status != 200 || a.header.Get("RateLimit") != fmt.Sprintf(`"address";r=%d;t=1`, 2-left) ||
					a.header.Get("RateLimit-Policy") != `"address";q=3;w=1` {
					t.Errorf("%d, %q", a.status, a.header)
				}
			}
			a := from("192.0.2.1:2") // another port is the same client
			a.wantsProblem(t, 429, api.CodeRateLimited)
			if a.header.Get("Retry-After") != "1" || a.header.Get("RateLimit") != `"address";r=0;t=1` {
				t.Error(a.header)
			}
			if a := from("192.0.2.2:1"); a.status != 200 {
				t.Errorf("another address: %d", a.status)
			}
			from("[2001:db8::1]:1")
			from("[2001:db8::2]:1")
			from("[2001:db8::3]:1")
			from("[2001:db8::4]:1").wantsProblem(t, 429, api.CodeRateLimited) // one network
			if a := from("[2001:db8:0:1::1]:1"); a.status != 200 {
				t.Errorf("another network: %d", a.status)
			}
			time.Sleep(time.Second)
		}
		from("192.0.2.1:1")
		time.Sleep(time.Second / 3)
		for range 3 {
			if a := from("192.0.2.1:1"); a.status != 200 {
				t.Errorf("what came back in time is refused: %d", a.status)
			}
		}
		from("192.0.2.1:1").wantsProblem(t, 429, api.CodeRateLimited)
	})
}

// TestRateLimitSpares holds that those which ask whether the server lives are not refused.
func TestRateLimitSpares(t *testing.T) {
	s := New(Config{RateLimit: 1})
	for range 5 {
		if a := call(t, s, "GET", "/healthz", ""); a.status != 200 || a.header.Get("RateLimit") != "" {
			t.Errorf("%d, %q", a.status, a.header)
		}
	}
}

// TestBucketsAreBounded holds that an attacker with many addresses takes little memory, and that those who were idle are
// forgotten.
func TestBucketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuckets[netip.Addr]("address", 1)
		address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
		refused := 0
		for i := range maxBuckets + 1000 {
			if b.take(map[string][]string{}, address(i)) != nil {
				refused++
			}
		}
		if len(b.young) != maxBuckets || refused != 999 { // who is too many shares one bucket
			t.Errorf("%d buckets, %d refused", len(b.young), refused)
		}
		time.Sleep(time.Second)
		if err := b.take(map[string][]string{}, address(0)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		_ = b.take(map[string][]string{}, address(0))
		if n := len(b.young) + len(b.aged); n != 2 {
			t.Errorf("%d buckets are kept", n)
		}
	})
}

// TestRoom holds that what all requests take in memory is bounded, and given back.
func TestRoom(t *testing.T) {
	s := New(Config{Logs: logs{commit: func(l []api.NewLog, _ *api.IdempotencyKey) (api.Committed, error) {
		return api.Committed{IDs: make([]api.ID, len(l))}, nil
	}, rng: func(string, api.RangeQuery) (api.Page, error) {
		return api.Page{Logs: []api.Log{{Body: []byte(`{"a":1}`)}}}, nil
	}}})
	s.bodies.most = 100
	if a := call(t, s, "POST", "/v1/topics/t/logs", `{"a":1}`); a.status != 201 {
		t.Error(a.status)
	}
	a := call(t, s, "POST", "/v1/topics/t/logs", fmt.Sprintf(`{"a":"%0100d"}`, 1))
	a.wantsProblem(t, 503, api.CodeOverloaded)
	call(t, s, "GET", "/v1/topics/t/logs", "").wantsProblem(t, 503, api.CodeOverloaded)
	if n := s.bodies.held.Load(); n != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

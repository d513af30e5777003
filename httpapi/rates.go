package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"pipeproc/api"
)

// rates limits how many requests a second each address, and each API key, may make.
type rates struct {
	addresses buckets[netip.Addr]
	keys      buckets[string]
}

func newRates(perSecond int) *rates {
	if perSecond <= 0 {
		return nil
	}
	return &rates{newBuckets[netip.Addr]("address", perSecond), newBuckets[string]("key", perSecond)}
}

// limitAddress counts a request against its address, before anything else is done for it.
func (s *Server) limitAddress(next http.Handler) http.Handler {
	if s.rates == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !spared(r) {
			if err := s.rates.addresses.take(w.Header(), api.CallerOf(r.Context()).Network()); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// limitKey counts a request against its API key, once that is known.
func (s *Server) limitKey(h handler) handler {
	if s.rates == nil {
		return h
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		if key := api.CallerOf(r.Context()).Key; key != "" {
			if err := s.rates.keys.take(w.Header(), key); err != nil {
				return err
			}
		}
		return h(w, r)
	}
}

// maxBuckets is for how many of a kind a second's requests are counted one by one; beyond that the others share one bucket,
// so that memory is bounded however many addresses an attacker has.
const maxBuckets = 1 << 16

// buckets are token buckets, each of a second's requests. Whoever was idle for a second has a full one, which need not be
// kept: so those of the last two seconds are known, and the older ones forgotten at once.
type buckets[K comparable] struct {
	name      string
	perSecond int
	policy    string // of RateLimit-Policy

	mu          sync.Mutex
	young, aged map[K]*rate.Limiter
	turned      time.Time // when young was begun
	rest        *rate.Limiter
}

func newBuckets[K comparable](name string, perSecond int) buckets[K] {
	return buckets[K]{name: name, perSecond: perSecond, policy: fmt.Sprintf("%q;q=%d;w=1", name, perSecond), young: map[K]*rate.Limiter{}, rest: newBucket(perSecond)}
}

func newBucket(perSecond int) *rate.Limiter { return rate.NewLimiter(rate.Limit(perSecond), perSecond) }

// take takes a token of k's bucket, and tells in the headers what is left: RateLimit and RateLimit-Policy of
// draft-ietf-httpapi-ratelimit-headers. CodeRateLimited where there is none.
func (b *buckets[K]) take(h http.Header, k K) error {
	now := time.Now()
	bucket := b.of(k, now)
	allowed := bucket.AllowN(now, 1)
	tokens := bucket.TokensAt(now)
	left := int(max(0, math.Floor(tokens)))
	h.Add("RateLimit-Policy", b.policy)
	h.Add("RateLimit", `"`+b.name+`";r=`+strconv.Itoa(left)+";t=1")
	if allowed {
		return nil
	}
	e := api.Errorf(api.CodeRateLimited, "more than %d requests a second of one %s", b.perSecond, b.name)
	e.RetryAfter = time.Second
	return e
}

// tellQuota tells in the same headers of a quota that is used up: of things at a time, not of requests in a time.
func tellQuota(h http.Header, q *api.Quota) {
	h.Add("RateLimit-Policy", fmt.Sprintf("%q;q=%d;qu=%q", q.Name, q.Most, "concurrent-requests"))
	h.Add("RateLimit", fmt.Sprintf("%q;r=0", q.Name))
}

func (b *buckets[K]) of(k K, now time.Time) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if age := now.Sub(b.turned); age >= time.Second {
		b.aged, b.young, b.turned = b.young, map[K]*rate.Limiter{}, now
		if age >= 2*time.Second {
			b.aged = nil
		}
	}
	bucket := b.young[k]
	if bucket == nil {
		if bucket = b.aged[k]; bucket == nil {
			if len(b.young) >= maxBuckets {
				return b.rest
			}
			bucket = newBucket(b.perSecond)
		}
		b.young[k] = bucket
	}
	return bucket
}

package livestream

import (
	"net/netip"
	"sync"
	"time"

	"pipeproc/api"
)

// limits count the open streams of a server: in all, of each client's address, and of each API key.
type limits struct {
	most, perAddress, perKey int // 0: no limit

	mu        sync.Mutex
	open      int
	addresses map[netip.Addr]int
	keys      map[string]int
}

func newLimits(c *Config) limits {
	return limits{most: c.MaxStreams, perAddress: c.MaxStreamsPerAddress, perKey: c.MaxStreamsPerKey,
		addresses: map[netip.Addr]int{}, keys: map[string]int{}}
}

// retryLater is when a client that was one too many may try again.
const retryLater = 5 * time.Second

// take counts a stream of c in; release, to be called once, counts it out. Errors: CodeRateLimited where the address or the
// key has its share already, CodeOverloaded where the server has; a stream that replaces another is taken all the same. All
// who come through Unix sockets share one address.
func (l *limits) take(c *api.Caller, replaces bool) (release func(), err error) {
	address, key := c.Network(), c.Key // c.Key as of now
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case replaces:
	case l.perAddress > 0 && l.addresses[address] >= l.perAddress:
		return nil, tooMany("streams-per-address", l.perAddress, "%d streams are open from this address, and more are not allowed")
	case l.perKey > 0 && key != "" && l.keys[key] >= l.perKey:
		return nil, tooMany("streams-per-key", l.perKey, "%d streams are open with this key, and more are not allowed")
	case l.most > 0 && l.open >= l.most:
		return nil, overloaded("%d streams are open, and this server takes no more", l.most)
	}
	l.open++
	l.addresses[address]++
	l.keys[key]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
		if l.addresses[address]--; l.addresses[address] == 0 {
			delete(l.addresses, address)
		}
		if l.keys[key]--; l.keys[key] == 0 {
			delete(l.keys, key)
		}
	}, nil
}

func tooMany(quota string, most int, format string) error {
	e := api.Errorf(api.CodeRateLimited, format, most)
	e.RetryAfter, e.Quota = retryLater, &api.Quota{Name: quota, Most: most}
	return e
}

func overloaded(format string, most int) error {
	e := api.Errorf(api.CodeOverloaded, format, most)
	e.RetryAfter = retryLater
	return e
}

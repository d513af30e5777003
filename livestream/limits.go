package livestream

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"pipeproc/api"
)

// limits count the open streams of a server, in all and of each client's address.
type limits struct {
	most, perAddress int // 0: no limit

	mu        sync.Mutex
	open      int
	addresses map[netip.Addr]int
}

// retryLater is when a client that was one too many may try again.
const retryLater = 5 * time.Second

// take counts the stream of r in; release, to be called once, counts it out. Errors: CodeRateLimited where the address has
// its share already, CodeOverloaded where the server has; a stream that replaces another is taken all the same.
func (l *limits) take(r *http.Request, replaces bool) (release func(), err error) {
	address := addressOf(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case replaces:
	case l.perAddress > 0 && l.addresses[address] >= l.perAddress:
		e := api.Errorf(api.CodeRateLimited, "%d streams are open from this address, and more are not allowed", l.perAddress)
		e.RetryAfter = retryLater
		return nil, e
	case l.most > 0 && l.open >= l.most:
		e := api.Errorf(api.CodeOverloaded, "%d streams are open, and this server takes no more", l.most)
		e.RetryAfter = retryLater
		return nil, e
	}
	l.open++
	l.addresses[address]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
		if l.addresses[address]--; l.addresses[address] == 0 {
			delete(l.addresses, address)
		}
	}, nil
}

// addressOf is where the connection of r comes from. All who come through Unix sockets share the zero address.
func addressOf(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap()
}

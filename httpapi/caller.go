package httpapi

import (
	"crypto/rand"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// requestIDHeader is both ways: a client may give its request a name, and is told what it is called.
const requestIDHeader = "X-Request-Id"

// requestIDs names requests: by a word that is new for each server, and a number.
type requestIDs struct {
	prefix string
	n      atomic.Uint64
}

func newRequestIDs() requestIDs { return requestIDs{prefix: strings.ToLower(rand.Text()[:10]) + "-"} }

// of is the id that the client gave r, if it is one that fits into a header and a line of a log; else a new one.
func (ids *requestIDs) of(r *http.Request) string {
	if given := r.Header[requestIDHeader]; len(given) == 1 && validRequestID(given[0]) {
		return given[0]
	}
	return string(strconv.AppendUint(append(make([]byte, 0, 32), ids.prefix...), ids.n.Add(1), 36))
}

// validRequestID takes 1 to 128 letters, digits and what ids of others are made of besides: UUIDs, base64, paths.
func validRequestID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.:/+=@~", c) >= 0:
		default:
			return false
		}
	}
	return 1 <= len(id) && len(id) <= 128
}

// Proxies are whose X-Forwarded-For is believed.
type Proxies struct {
	Networks    []netip.Prefix
	UnixSockets bool // whoever comes through one is a proxy
}

// trusts reports whether who sends from a, zero being a Unix socket, is a proxy.
func (p *Proxies) trusts(a netip.Addr) bool {
	if !a.IsValid() {
		return p.UnixSockets
	}
	return slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// client is where r comes from: the connection's address; or, as long as that is a proxy's, the one before it, as the proxies
// tell. Each adds the address that it was called from at the right, so what is left of one that is not trusted may be
// made up. Zero: a Unix socket.
func (p *Proxies) client(r *http.Request) netip.Addr {
	at := netip.Addr{}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		at = from.Addr().Unmap().WithZone("")
	}
	if !p.trusts(at) {
		return at
	}
	told := r.Header["X-Forwarded-For"]
	for i := len(told) - 1; i >= 0; i-- {
		for list := told[i]; ; {
			comma := strings.LastIndexByte(list, ',')
			before, ok := forwardedAddress(list[comma+1:])
			if !ok {
				return at
			}
			if at = before; !p.trusts(at) {
				return at
			}
			if comma < 0 {
				break
			}
			list = list[:comma]
		}
	}
	return at
}

// forwardedAddress reads an element of X-Forwarded-For: an address, of which some proxies tell the port.
func forwardedAddress(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		var from netip.AddrPort
		if from, err = netip.ParseAddrPort(s); err != nil {
			return a, false
		}
		a = from.Addr()
	}
	return a.Unmap().WithZone(""), true
}

package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"pipeproc/api"
)

// Pages that a browser shows are kept from what is not theirs here: those of other sites can neither have anything done nor
// read what is answered, but for the origins of Config.CORSOrigins.

// ParseOrigin checks an origin, as browsers send it: https://app.example, http://localhost:3000.
func ParseOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		origin != u.Scheme+"://"+strings.ToLower(u.Host) {
		return fmt.Errorf("%q is not an origin as browsers send it: https://app.example, or http://localhost:3000", origin)
	}
	return nil
}

// ParseHost checks a name that the Host header may have, without a port.
func ParseHost(host string) error {
	if host == "" || strings.ContainsAny(host, "/@?#* \t") || hostName(host) != strings.ToLower(host) {
		return fmt.Errorf("%q is not the name of a host, without a port: pipeproc.example, or 192.0.2.1", host)
	}
	return nil
}

// protected answers, or refuses, what is to be told apart by where it comes from before anything else is asked.
func (s *Server) protected(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.checkHost(r); err != nil {
			s.refuse(w, r, err)
			return
		}
		if s.cors(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// The headers of every answer: what a browser shows of it runs nothing, loads nothing, is in no frame, and is taken for
// nothing but what it is. They are shared, and never changed.
var (
	noSniff      = []string{"nosniff"}
	noContent    = []string{"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"}
	noReferrer   = []string{"no-referrer"}
	sameOrigin   = []string{"same-origin"}
	variesOrigin = []string{"Origin"}
)

func guard(h http.Header) {
	h["X-Content-Type-Options"] = noSniff
	h["Content-Security-Policy"] = noContent
	h["Referrer-Policy"] = noReferrer
	h["Cross-Origin-Resource-Policy"] = sameOrigin
}

// checkHost refuses requests for other hosts that come over loopback: a page whose name was made to mean this machine would
// be of the server's own origin. Where hosts are allowed by name, it does so for every TCP connection.
func (s *Server) checkHost(r *http.Request) error {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !at.IP.IsLoopback() && len(s.AllowedHosts) == 0 {
		return nil
	}
	name := hostName(r.Host)
	if LoopbackHost(r.Host) || slices.Contains(s.AllowedHosts, name) {
		return nil
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.Unmap() == at.AddrPort().Addr().Unmap().WithZone("") {
		return nil // the address itself, as who asks for health calls it: a page from there is the server's own
	}
	return api.Errorf(api.CodeForbidden, "the host %q is not one of this server's; --allowed-host makes it one", clip(name))
}

// LoopbackHost reports whether a Host header is one by which this machine is called on itself, and which no page can have
// that came from elsewhere: no name at all, localhost, or a loopback address.
func LoopbackHost(host string) bool {
	name := hostName(host)
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true // browsers always tell one, and take names of localhost for this machine themselves
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Zone() == "" && (ip.Unmap().IsLoopback() || ip.IsUnspecified()) // 0.0.0.0 and [::] are this machine to who connects
}

// hostName is the name in a Host header, without port, brackets and the last dot. What stands for a port and is no number belongs
// to the name, which is then nobody's: "localhost:80@evil.example".
func hostName(host string) string {
	if name, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") == "" {
		host = name
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if name := strings.TrimSuffix(host, "."); name != "" {
		host = name
	}
	return strings.ToLower(host)
}

// What pages of other origins may send and read, besides what they always may.
var (
	corsMethods = strings.Join(methods, ", ")
	corsSent    = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, Traceparent, Tracestate"
	corsRead    = "Allow, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
)

// cors tells browsers of the origins that are allowed, and answers their question before a request that needs one.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) (answered bool) {
	if len(s.CORSOrigins) == 0 {
		return false
	}
	h := w.Header()
	h["Vary"] = variesOrigin
	origin := r.Header.Get("Origin")
	if origin == "" || !slices.Contains(s.CORSOrigins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true") // a client certificate is one
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		h.Set("Access-Control-Expose-Headers", corsRead)
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsSent)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// newCrossOrigin tells requests of other origins' pages, but those trusted.
func newCrossOrigin(trusted []string) *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	for _, origin := range trusted {
		if err := p.AddTrustedOrigin(origin); err != nil {
			panic(err) // ParseOrigin takes none of these
		}
	}
	return p
}

// checkOrigin refuses a request that a page of another origin makes, unless that is allowed, or but reads. GET is not taken
// for harmless where it has effects, as the role tells that it takes.
func (s *Server) checkOrigin(r *http.Request, role Role) error {
	asked := r
	if role > RoleRead && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		asked = &http.Request{Method: http.MethodPost, URL: r.URL, Host: r.Host, Header: r.Header}
	}
	if err := s.crossOrigin.Check(asked); err != nil {
		return api.Errorf(api.CodeForbidden, "pages of other origins may not do this; --cors-origin allows one")
	}
	return nil
}

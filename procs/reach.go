package procs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/net/idna"

	"pipeproc/api"
)

// Reach tells which addresses webhooks may be called at: those that are globally reachable, and what is opened here. It
// is asked about the address of every socket before that connects, so that neither a name nor the way in which an address
// is written can deceive it. An IPv4 address counts as that whether it comes as such, mapped (::ffff:0:0/96) or for NAT64
// (64:ff9b::/96); other addresses that tunnel or translate (6to4, Teredo, NAT64 of other prefixes) are not globally
// reachable. Addresses with a zone, 0.0.0.0 and :: are never called.
type Reach struct {
	// Allow opens ranges, whatever they are. IPv4 ranges are given as IPv4.
	Allow []netip.Prefix

	// Loopback opens the loopback addresses.
	Loopback bool

	// Own tells of an address and port that it stays closed, whatever is opened: this server or its database listens
	// there. IPv4 addresses come as such. It bounds its own time. nil: there is none.
	Own func(context.Context, netip.AddrPort) bool

	// Resolver looks hosts up. nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// errForbidden is what a connection ends with that was not made because of its address.
var errForbidden = errors.New("webhooks may not be sent to this address")

// dial opens a connection to a webhook, at the first of its host's addresses that may be called and answers. It errs with
// errForbidden when there is none that may.
func (r *Reach) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return r.dialer().DialContext(ctx, network, address)
}

func (r *Reach) dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, Resolver: r.Resolver, ControlContext: r.control}
}

// control judges a socket that is about to connect.
func (r *Reach) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !r.permits(ctx, at) {
		return errForbidden
	}
	return nil
}

// nat64 is the prefix whose addresses translators take for the IPv4 addresses that are their last four bytes.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// permits tells whether webhooks may be called at an address and port.
func (r *Reach) permits(ctx context.Context, at netip.AddrPort) bool {
	if at.Addr().Zone() != "" {
		return false
	}
	addr := at.Addr().Unmap()
	target := addr // where the connection ends up
	if nat64.Contains(addr) {
		b := addr.As16()
		target = netip.AddrFrom4([4]byte(b[12:]))
	}
	if addr.IsUnspecified() || target.IsUnspecified() {
		return false
	}
	open := r.allows(addr) || r.allows(target) || r.Loopback && addr.IsLoopback() || global(target)
	return open && !r.owns(ctx, addr, at.Port()) && (target == addr || !r.owns(ctx, target, at.Port()))
}

func (r *Reach) allows(addr netip.Addr) bool {
	return slices.ContainsFunc(r.Allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (r *Reach) owns(ctx context.Context, addr netip.Addr, port uint16) bool {
	return r.Own != nil && r.Own(ctx, netip.AddrPortFrom(addr, port))
}

// checkURL answers CodeNoValidProcessor for a URL of which it is plain, without asking DNS, that it may not be called.
func (r *Reach) checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return refused("the processor's url cannot be read")
	}
	port, err := portOf(u)
	if err != nil {
		return refused("the port of the processor's url is 1 to 65535")
	}
	host := u.Hostname()
	if strings.ContainsFunc(host, func(c rune) bool { return c > unicode.MaxASCII }) {
		// As net/http does: full-width digits become digits, 。 a dot, other letters xn--….
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return refused("the host of the processor's url is no valid name")
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !r.permits(context.Background(), netip.AddrPortFrom(addr, port)) {
			return refused("the processor's url names %s, an address that webhooks may not be sent to; %s", addr.WithZone(""), opens)
		}
		return nil
	}
	name := strings.ToLower(strings.TrimRight(host, "."))
	switch {
	case numeric(name[strings.LastIndexByte(name, '.')+1:]):
		return refused("the host of the processor's url is neither a name nor an IPv4 address of four decimal numbers")
	case (name == "localhost" || strings.HasSuffix(name, ".localhost")) && !r.permitsLocalhost(port):
		return refused("the processor's url names localhost, which webhooks may not be sent to; %s", opens)
	}
	return nil
}

const opens = "the server's flag --webhook-allow opens ranges of addresses, though never the server's own or its database's"

func refused(format string, args ...any) error {
	return api.Errorf(api.CodeNoValidProcessor, format, args...)
}

// portOf answers an error for a port that cannot be.
func portOf(u *url.URL) (uint16, error) {
	switch {
	case u.Port() != "":
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if port == 0 && err == nil {
			err = strconv.ErrRange
		}
		return uint16(port), err
	case u.Scheme == "https":
		return 443, nil
	}
	return 80, nil
}

// numeric tells whether a host that ends in this label is an IPv4 address for browsers and some resolvers: 127.1,
// 0x7f.1, 2130706433.
func numeric(label string) bool {
	const decimal = "0123456789"
	hex, isHex := strings.CutPrefix(label, "0x")
	if isHex {
		return strings.Trim(hex, decimal+"abcdef") == ""
	}
	return label != "" && strings.Trim(label, decimal) == ""
}

// permitsLocalhost tells whether a port of localhost may be called: at an address of it at least, and none is an own one.
func (r *Reach) permitsLocalhost(port uint16) bool {
	permitted := false
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if r.owns(context.Background(), addr, port) {
			return false
		}
		permitted = permitted || r.permits(context.Background(), netip.AddrPortFrom(addr, port))
	}
	return permitted
}

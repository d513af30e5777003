package service

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pipeproc/procs"
)

// webhookReach says which addresses webhooks may be called at: besides public ones those opened, and loopback ones while
// every listener is one or a Unix socket; never those at which the server and its database listen.
func webhookReach(opened []netip.Prefix, listeners []listener, database []databaseHost) procs.Reach {
	own := &ownAddresses{database: database, interfaces: net.InterfaceAddrs, lookup: net.DefaultResolver.LookupNetIP}
	r := procs.Reach{Allow: opened, Loopback: true, Own: own.has}
	for _, l := range listeners {
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			continue // a Unix socket
		}
		at := tcp.AddrPort()
		own.listeners = append(own.listeners, netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()))
		r.Loopback = r.Loopback && tcp.IP.IsLoopback()
	}
	return r
}

// webhookAllow reads the ranges of --webhook-allow: 10.1.0.0/16, or one address.
func webhookAllow(ranges []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range ranges {
		p, err := netip.ParsePrefix(text)
		if addr, e := netip.ParseAddr(text); e == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("--webhook-allow %q: it is an address or a range of them, as 10.1.0.0/16 or fd00::/8", text)
		case p.Addr().Is4In6():
			return nil, fmt.Errorf("--webhook-allow %q: give IPv4 addresses as such, they count in every form", text)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// ownAddresses are where a server and its database listen.
type ownAddresses struct {
	listeners []netip.AddrPort
	database  []databaseHost

	interfaces func() ([]net.Addr, error)
	lookup     func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// databaseHost is one of the hosts that the database's URL names.
type databaseHost struct {
	host string // an address or a name
	port uint16
}

// databaseHosts are the hosts that pgx would connect to; an empty URL names none. A Unix socket counts as localhost: a
// PostgreSQL that has one listens on the TCP port of the same number as well, as a rule.
func databaseHosts(urls ...string) ([]databaseHost, error) {
	var all []databaseHost
	add := func(host string, port uint16) {
		if h := (databaseHost{host, port}); !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	for _, url := range urls {
		if url == "" {
			continue
		}
		config, err := pgx.ParseConfig(url)
		if err != nil {
			return nil, fmt.Errorf("a database URL: %w", checkDatabaseURL(url))
		}
		add(config.Host, config.Port)
		for _, f := range config.Fallbacks { // further hosts, and the same with and without TLS
			add(f.Host, f.Port)
		}
	}
	for i, h := range all {
		if strings.HasPrefix(h.host, "/") || strings.HasPrefix(h.host, "@") {
			all[i].host = "127.0.0.1"
		}
	}
	return all, nil
}

// has tells whether the server or its database listens at an address and port. What cannot be found out counts as yes.
func (o *ownAddresses) has(ctx context.Context, at netip.AddrPort) bool {
	for _, l := range o.listeners {
		if l.Port() == at.Port() && (l.Addr() == at.Addr() || l.Addr().IsUnspecified() && o.here(at.Addr())) {
			return true
		}
	}
	for _, d := range o.database {
		if d.port == at.Port() && o.isAt(ctx, d, at.Addr()) {
			return true
		}
	}
	return false
}

// lookupTime is what looking up the database's host may take.
const lookupTime = 5 * time.Second

// isAt tells whether addr is one of d's. A database on this machine is taken to listen on all of its addresses.
func (o *ownAddresses) isAt(ctx context.Context, d databaseHost, addr netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := o.lookup(ctx, "ip", d.host)
	if err != nil {
		return true
	}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if a == addr || a.IsUnspecified() && o.here(addr) || o.here(a) && o.here(addr) {
			return true
		}
	}
	return false
}

// here tells whether addr is one of this machine's.
func (o *ownAddresses) here(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	all, err := o.interfaces()
	if err != nil {
		return true
	}
	for _, a := range all {
		if network, ok := a.(*net.IPNet); ok {
			if ours, ok := netip.AddrFromSlice(network.IP); ok && ours.Unmap() == addr {
				return true
			}
		}
	}
	return false
}

package procs

import "net/netip"

// special is what IANA's registries of special-purpose addresses say, as of 2025-10-09:
//
//	https://www.iana.org/assignments/iana-ipv4-special-registry
//	https://www.iana.org/assignments/iana-ipv6-special-registry
//
// and the multicast ranges, which have registries of their own. The longest prefix counts. IPv4 addresses that stand for
// themselves in IPv6 are judged as IPv4, see Reach.
var special = []struct {
	prefix netip.Prefix
	global bool // "globally reachable" is true, not false or N/A
}{
	{netip.MustParsePrefix("0.0.0.0/8"), false},       // this network
	{netip.MustParsePrefix("10.0.0.0/8"), false},      // private use
	{netip.MustParsePrefix("100.64.0.0/10"), false},   // shared address space (CGNAT)
	{netip.MustParsePrefix("127.0.0.0/8"), false},     // loopback
	{netip.MustParsePrefix("169.254.0.0/16"), false},  // link local, metadata services
	{netip.MustParsePrefix("172.16.0.0/12"), false},   // private use
	{netip.MustParsePrefix("192.0.0.0/24"), false},    // IETF protocol assignments
	{netip.MustParsePrefix("192.0.0.9/32"), true},     // Port Control Protocol anycast
	{netip.MustParsePrefix("192.0.0.10/32"), true},    // TURN anycast
	{netip.MustParsePrefix("192.0.2.0/24"), false},    // documentation
	{netip.MustParsePrefix("192.31.196.0/24"), true},  // AS112
	{netip.MustParsePrefix("192.52.193.0/24"), true},  // AMT
	{netip.MustParsePrefix("192.88.99.0/24"), false},  // 6to4 relay anycast
	{netip.MustParsePrefix("192.168.0.0/16"), false},  // private use
	{netip.MustParsePrefix("192.175.48.0/24"), true},  // AS112, direct delegation
	{netip.MustParsePrefix("198.18.0.0/15"), false},   // benchmarking
	{netip.MustParsePrefix("198.51.100.0/24"), false}, // documentation
	{netip.MustParsePrefix("203.0.113.0/24"), false},  // documentation
	{netip.MustParsePrefix("224.0.0.0/4"), false},     // multicast
	{netip.MustParsePrefix("240.0.0.0/4"), false},     // reserved, limited broadcast

	{netip.MustParsePrefix("::/0"), false},
	{netip.MustParsePrefix("2000::/3"), true},          // global unicast: the one range that is given out
	{netip.MustParsePrefix("2001::/23"), false},        // IETF protocol assignments: Teredo, benchmarking, ORCHID, …
	{netip.MustParsePrefix("2001:1::1/128"), true},     // Port Control Protocol anycast
	{netip.MustParsePrefix("2001:1::2/128"), true},     // TURN anycast
	{netip.MustParsePrefix("2001:1::3/128"), true},     // DNS-SD service registration anycast
	{netip.MustParsePrefix("2001:3::/32"), true},       // AMT
	{netip.MustParsePrefix("2001:4:112::/48"), true},   // AS112
	{netip.MustParsePrefix("2001:20::/28"), true},      // ORCHIDv2
	{netip.MustParsePrefix("2001:30::/28"), true},      // drone remote identification
	{netip.MustParsePrefix("2001:db8::/32"), false},    // documentation
	{netip.MustParsePrefix("2002::/16"), false},        // 6to4
	{netip.MustParsePrefix("2620:4f:8000::/48"), true}, // AS112, direct delegation
	{netip.MustParsePrefix("3fff::/20"), false},        // documentation
}

// global tells whether addr is globally reachable. addr is no IPv4 address in IPv6 form, and without zone.
func global(addr netip.Addr) bool {
	is, bits := true, -1 // IPv4 addresses that no registry tells of
	for _, s := range special {
		if s.prefix.Bits() > bits && s.prefix.Contains(addr) {
			is, bits = s.global, s.prefix.Bits()
		}
	}
	return is
}

package service

import (
	"fmt"
	"net/netip"

	"pipeproc/httpapi"
)

// trustedProxies reads --trusted-proxy: 10.1.0.0/16, one address, or unix for whoever comes through a Unix socket.
func trustedProxies(given []string) (p httpapi.Proxies, err error) {
	for _, text := range given {
		if text == "unix" {
			p.UnixSockets = true
			continue
		}
		network, err := netip.ParsePrefix(text)
		if addr, e := netip.ParseAddr(text); e == nil && addr.Zone() == "" {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || network.Addr().Is4In6() {
			return p, fmt.Errorf("--trusted-proxy %q: it is an address or a range of them, as 10.1.0.0/16 or fd00::/8, or unix", text)
		}
		p.Networks = append(p.Networks, network.Masked())
	}
	return p, nil
}

package service

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWebhookAllow(t *testing.T) {
	got, err := webhookAllow([]string{"10.1.0.0/16", "10.1.2.3/8", "127.0.0.1", "::1", "fd00::1/8", "0.0.0.0/0"})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range got {
		texts = append(texts, p.String())
	}
	want := []string{"10.1.0.0/16", "10.0.0.0/8", "127.0.0.1/32", "::1/128", "fd00::/8", "0.0.0.0/0"}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "x", "localhost", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0/8", "fe80::1%eth0", "fe80::%eth0/10",
		"::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "10.0.0.0/8,11.0.0.0/8", "127.0.0.1:80", "[::1]"} {
		if got, err := webhookAllow([]string{"10.0.0.0/8", bad}); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// TestLoopbackIsOpen holds that loopback addresses are open to webhooks while nobody but this machine reaches the server,
// and that the server's own are not, port 0 or not.
func TestLoopbackIsOpen(t *testing.T) {
	socket := "unix:" + filepath.Join(t.TempDir(), "s")
	tests := map[string]struct {
		listen []string
		open   bool
	}{
		"loopback":                   {[]string{"127.0.0.1:0"}, true},
		"another loopback":           {[]string{"127.0.0.2:0"}, true},
		"a Unix socket":              {[]string{socket}, true},
		"both":                       {[]string{"127.0.0.1:0", socket, "127.0.0.1:0"}, true},
		"every address":              {[]string{":0"}, false},
		"every address of IPv4":      {[]string{"0.0.0.0:0"}, false},
		"loopback and every address": {[]string{"127.0.0.1:0", socket, "0.0.0.0:0"}, false},
		"every address and loopback": {[]string{"0.0.0.0:0", "127.0.0.1:0"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := DefaultConfig()
			c.Listen, c.Insecure, c.WebhookAllow = tt.listen, true, []string{"10.0.0.0/8"}
			s, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			listeners, err := s.listen(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r := webhookReach(s.opened, listeners, nil)
			for _, l := range listeners {
				l.Close()
				if tcp, ok := l.Addr().(*net.TCPAddr); ok {
					at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), tcp.AddrPort().Port())
					if want := tcp.IP.String() != "127.0.0.2"; r.Own(t.Context(), at) != want {
						t.Errorf("%s, listening at %s, own is %v", at, tcp, !want)
					}
				}
			}
			if r.Loopback != tt.open {
				t.Errorf("open: %v", r.Loopback)
			}
			if len(r.Allow) != 1 || r.Allow[0].String() != "10.0.0.0/8" {
				t.Errorf("allowed: %v", r.Allow)
			}
			if r.Own(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")) {
				t.Error("another port is an own one")
			}
		})
	}
}

func TestDatabaseHosts(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGSERVICE", "PGSSLMODE"} {
		t.Setenv(name, "")
	}
	for url, want := range map[string][]databaseHost{
		"postgres://u@db:6432/x":                                  {{"db", 6432}},
		"postgres://u@127.0.0.1/x?sslmode=prefer":                 {{"127.0.0.1", 5432}},
		"postgres://u@a:1,b:2,[::1]:3/x?sslmode=prefer":           {{"a", 1}, {"b", 2}, {"::1", 3}},
		"postgres:///x?host=/run/postgresql&port=5433":            {{"127.0.0.1", 5433}},
		"host=@abstract,db port=5433,5434 user=u sslmode=disable": {{"127.0.0.1", 5433}, {"db", 5434}},
	} {
		got, err := databaseHosts(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(databaseHost{})); diff != "" {
			t.Errorf("%s:\n%s", url, diff)
		}
	}
	if _, err := databaseHosts("postgres://u@db:x/"); err == nil {
		t.Error("a bad URL has hosts")
	}
}

func TestOwnAddresses(t *testing.T) {
	addrs := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	lookups := 0
	own := func(listeners string, database ...databaseHost) *ownAddresses {
		o := &ownAddresses{database: database,
			interfaces: func() ([]net.Addr, error) {
				return []net.Addr{
					&net.IPNet{IP: net.ParseIP("10.0.0.5"), Mask: net.CIDRMask(24, 32)},
					&net.IPNet{IP: net.ParseIP("2600::5"), Mask: net.CIDRMask(64, 128)}}, nil
			},
			lookup: func(ctx context.Context, network, host string) ([]netip.Addr, error) {
				lookups++
				if _, bounded := ctx.Deadline(); !bounded || network != "ip" {
					t.Errorf("lookup of %q, bounded: %v", network, bounded)
				}
				switch host {
				case "db":
					return addrs("10.9.9.9", "::ffff:10.9.9.8", "fd00::9"), nil
				case "near":
					return addrs("10.0.0.5"), nil
				case "fault":
					return nil, errors.New("no answer")
				}
				return addrs(host), nil
			}}
		if listeners != "" {
			o.listeners = append(o.listeners, netip.MustParseAddrPort(listeners))
		}
		return o
	}
	blind := own("0.0.0.0:80")
	blind.interfaces = func() ([]net.Addr, error) { return nil, errors.New("no permission") }
	tests := []struct {
		name string
		own  *ownAddresses
		at   string
		want bool
	}{
		{"listener", own("127.0.0.1:80"), "127.0.0.1:80", true},
		{"listener, port", own("127.0.0.1:80"), "127.0.0.1:81", false},
		{"listener, address", own("127.0.0.1:80"), "127.0.0.2:80", false},
		{"wildcard, loopback", own("0.0.0.0:80"), "127.3.2.1:80", true},
		{"wildcard, ::1", own("[::]:80"), "[::1]:80", true},
		{"wildcard, interface", own("[::]:80"), "10.0.0.5:80", true},
		{"wildcard, IPv6 interface", own("[::]:80"), "[2600::5]:80", true},
		{"wildcard, neighbour", own("0.0.0.0:80"), "10.0.0.6:80", false},
		{"wildcard, port", own("0.0.0.0:80"), "127.0.0.1:8080", false},
		{"wildcard, unknown interfaces", blind, "10.0.0.6:80", true},
		{"database", own("", databaseHost{"10.1.1.1", 5432}), "10.1.1.1:5432", true},
		{"database, port", own("", databaseHost{"10.1.1.1", 5432}), "10.1.1.1:80", false},
		{"database, address", own("", databaseHost{"10.1.1.1", 5432}), "10.1.1.2:5432", false},
		{"database's name", own("", databaseHost{"db", 5432}), "10.9.9.9:5432", true},
		{"database's name, mapped", own("", databaseHost{"db", 5432}), "10.9.9.8:5432", true},
		{"database's name, IPv6", own("", databaseHost{"db", 5432}), "[fd00::9]:5432", true},
		{"database's name, another", own("", databaseHost{"db", 5432}), "10.9.9.7:5432", false},
		{"database's name, unknown", own("", databaseHost{"fault", 5432}), "8.8.8.8:5432", true},
		{"database, fallback", own("", databaseHost{"10.1.1.1", 5432}, databaseHost{"db", 6432}), "10.9.9.9:6432", true},
		{"database here", own("", databaseHost{"127.0.0.1", 5432}), "[::1]:5432", true},
		{"database here, interface", own("", databaseHost{"::1", 5432}), "10.0.0.5:5432", true},
		{"database here by its name", own("", databaseHost{"near", 5432}), "127.0.0.1:5432", true},
		{"database anywhere here", own("", databaseHost{"0.0.0.0", 5432}), "127.0.0.1:5432", true},
		{"database here, neighbour", own("", databaseHost{"127.0.0.1", 5432}), "10.0.0.6:5432", false},
	}
	for _, tt := range tests {
		if got := tt.own.has(t.Context(), netip.MustParseAddrPort(tt.at)); got != tt.want {
			t.Errorf("%s: %s: %v", tt.name, tt.at, got)
		}
	}
	lookups = 0
	own("127.0.0.1:80", databaseHost{"db", 5432}).has(t.Context(), netip.MustParseAddrPort("8.8.8.8:443"))
	if lookups > 0 {
		t.Error("the database is looked up for every call")
	}
}

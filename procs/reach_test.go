package procs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"pipeproc/api"
)

// noAddress is what users are told, whether a name does not resolve or its addresses may not be called.
const noAddress = "the processor's host has no address that may be called"

// forbidden are hosts that webhooks may not be called at, as they stand in a URL. dns is what their name resolves to.
// plain: refused at creation. here: this machine can be reached by it, so that without the guard it is; here6: if it has
// an IPv6 loopback address.
var forbidden = []struct {
	host        string
	dns         []string
	plain       bool
	here, here6 bool
}{
	// IANA's special-purpose registry of IPv4, and multicast.
	{host: "0.0.0.0", plain: true, here: true},
	{host: "0.0.0.1", plain: true},
	{host: "0.255.255.255", plain: true},
	{host: "10.0.0.1", plain: true},
	{host: "10.255.255.255", plain: true},
	{host: "100.64.0.1", plain: true},
	{host: "100.127.255.255", plain: true},
	{host: "127.0.0.1", plain: true, here: true},
	{host: "127.0.0.2", plain: true, here: true},
	{host: "127.255.255.254", plain: true, here: true},
	{host: "169.254.0.1", plain: true},
	{host: "169.254.169.254", plain: true},
	{host: "172.16.0.1", plain: true},
	{host: "172.31.255.255", plain: true},
	{host: "192.0.0.1", plain: true},
	{host: "192.0.0.8", plain: true},
	{host: "192.0.0.170", plain: true},
	{host: "192.0.2.99", plain: true},
	{host: "192.88.99.1", plain: true},
	{host: "192.168.0.1", plain: true},
	{host: "198.18.0.1", plain: true},
	{host: "198.19.255.255", plain: true},
	{host: "198.51.100.1", plain: true},
	{host: "203.0.113.1", plain: true},
	{host: "224.0.0.1", plain: true},
	{host: "239.255.255.255", plain: true},
	{host: "240.0.0.1", plain: true},
	{host: "255.255.255.255", plain: true},

	// That of IPv6.
	{host: "[::]", plain: true, here6: true},
	{host: "[::1]", plain: true, here6: true},
	{host: "[0:0:0:0:0:0:0:1]", plain: true, here6: true},
	{host: "[::2]", plain: true},
	{host: "[100::1]", plain: true},
	{host: "[100:0:0:1::1]", plain: true},
	{host: "[2001:2::1]", plain: true},
	{host: "[2001:10::1]", plain: true},
	{host: "[2001:db8::1]", plain: true},
	{host: "[3fff:fff::1]", plain: true},
	{host: "[4000::1]", plain: true},
	{host: "[5f00::1]", plain: true},
	{host: "[fc00::1]", plain: true},
	{host: "[fd00:ec2::254]", plain: true},
	{host: "[fe80::1]", plain: true},
	{host: "[fec0::1]", plain: true},
	{host: "[ff02::1]", plain: true},
	{host: "[ff0e::1]", plain: true},

	// Zones.
	{host: "[::1%25lo]", plain: true, here6: true},
	{host: "[fe80::1%25lo]", plain: true},
	{host: "[2606:4700::1%25eth0]", plain: true},
	{host: "[::ffff:127.0.0.1%25lo]", plain: true, here: true},

	// IPv4 in IPv6: mapped, compatible, NAT64, 6to4, Teredo.
	{host: "[::ffff:127.0.0.1]", plain: true, here: true},
	{host: "[::FFFF:7F00:1]", plain: true, here: true},
	{host: "[0:0:0:0:0:ffff:7f00:0001]", plain: true, here: true},
	{host: "[::ffff:0.0.0.0]", plain: true, here: true},
	{host: "[::ffff:10.0.0.1]", plain: true},
	{host: "[::ffff:a9fe:a9fe]", plain: true},
	{host: "[::127.0.0.1]", plain: true},
	{host: "[::8.8.8.8]", plain: true},
	{host: "[64:ff9b::127.0.0.1]", plain: true},
	{host: "[64:ff9b::7f00:1]", plain: true},
	{host: "[64:ff9b::a00:1]", plain: true},
	{host: "[64:ff9b::169.254.169.254]", plain: true},
	{host: "[64:ff9b::]", plain: true},
	{host: "[64:ff9b:1::808:808]", plain: true},
	{host: "[64:ff9b:0:0:0:1:808:808]", plain: true},
	{host: "[2002:7f00:1::1]", plain: true},
	{host: "[2002:808:808::1]", plain: true},
	{host: "[2001::1]", plain: true},
	{host: "[2001:0:4136:e378:8000:63bf:80ff:fffe]", plain: true},

	// Other ways to write 127.0.0.1, which some resolvers understand.
	{host: "2130706433", plain: true},
	{host: "017700000001", plain: true},
	{host: "0x7f000001", plain: true},
	{host: "0X7F000001", plain: true},
	{host: "0x7f.1", plain: true},
	{host: "0x7f.0.0.0x1", plain: true},
	{host: "127.1", plain: true},
	{host: "127.0.1", plain: true},
	{host: "0177.0.0.1", plain: true},
	{host: "0177.0.0.01", plain: true},
	{host: "127.0.0.01", plain: true},
	{host: "127.0.0.1.", plain: true},
	{host: "0x7f.1.", plain: true},
	{host: "127.0.0.0x", plain: true},
	{host: "127.0.0.256", plain: true},
	{host: "1.127.0.0.1", plain: true},
	{host: "name.1", plain: true},
	{host: "１２７.0.0.1", plain: true, here: true},
	{host: "%EF%BC%91２７.0.0.1", plain: true, here: true},
	{host: "①②⑦.⓪.⓪.①", plain: true, here: true},
	{host: "127。0．0｡1", plain: true, here: true},
	{host: "２１３０７０６４３３", plain: true},
	{host: "%31%32%37.0.0.1", plain: true},
	{host: "127.0.0.1%2e", plain: true},
	{host: "127.0.0.1%00", plain: true},
	{host: "127.0.0.1%20", plain: true},
	{host: "127.0.0.1 ", plain: true},
	{host: "127.0.0.1\t", plain: true},
	{host: "[127.0.0.1]", plain: true},
	{host: "[::１]", plain: true},
	{host: "::1", plain: true},

	// Names of the loopback.
	{host: "localhost", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "LocalHost", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "localhost.", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "any.localhost", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "any.LOCALHOST.", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "ｌｏｃａｌｈｏｓｔ", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "local\u00adhost", dns: []string{"127.0.0.1"}, plain: true, here: true},
	{host: "any。localhost", dns: []string{"127.0.0.1"}, plain: true, here: true},

	// Before the host.
	{host: "user@127.0.0.1", plain: true, here: true},
	{host: "public.test:80@127.0.0.1", plain: true, here: true},
	{host: `public.test\@127.0.0.1`, plain: true},

	// What DNS says.
	{host: "private.test", dns: []string{"10.0.0.1"}},
	{host: "metadata.test", dns: []string{"169.254.169.254"}},
	{host: "loopback.test", dns: []string{"127.0.0.1"}, here: true},
	{host: "LOOPBACK.test.", dns: []string{"127.0.0.1"}, here: true},
	{host: "unspecified.test", dns: []string{"0.0.0.0"}, here: true},
	{host: "unspecified6.test", dns: []string{"::"}, here6: true},
	{host: "loopback6.test", dns: []string{"::1"}, here6: true},
	{host: "mapped.test", dns: []string{"::ffff:127.0.0.1"}, here: true},
	{host: "mapped-private.test", dns: []string{"::ffff:10.0.0.1"}},
	{host: "compatible.test", dns: []string{"::127.0.0.1"}},
	{host: "nat64.test", dns: []string{"64:ff9b::7f00:1"}},
	{host: "6to4.test", dns: []string{"2002:7f00:1::"}},
	{host: "teredo.test", dns: []string{"2001:0:4136:e378:8000:63bf:80ff:fffe"}},
	{host: "several.test", dns: []string{"127.0.0.2", "127.0.0.3"}, here: true},
	{host: "both.test", dns: []string{"127.0.0.1", "::1"}, here: true},
	{host: "alias.test", dns: []string{"= loopback.test", "127.0.0.1"}, here: true},
	{host: "bücher.test", dns: []string{"127.0.0.1"}, here: true},
	{host: "xn--bcher-kva.test", dns: []string{"127.0.0.1"}, here: true},
	{host: "empty.test", dns: []string{}},
	{host: "none.test"},
}

// TestForbidden calls every forbidden host, at a port where this whole machine listens: nobody gets to connect. Without
// the guard those arrive that can.
func TestForbidden(t *testing.T) {
	if len(forbidden) < 60 {
		t.Errorf("only %d hosts", len(forbidden))
	}
	d := openDoor(t)
	dns := resolver(t, func(name string, _ dnsmessage.Type) []string {
		for _, f := range forbidden {
			if strings.EqualFold(strings.TrimSuffix(f.host, "."), name) { // others are written in ASCII elsewhere in the table
				return f.dns
			}
		}
		return nil
	})
	for _, f := range forbidden {
		t.Run(f.host, func(t *testing.T) {
			d.refuses(t, f.host, f.plain, dns)
			if f.here || f.here6 && d.six {
				d.admits(t, f.host, dns)
			}
		})
	}
}

// TestForbiddenInterfaces does the same with the addresses of this machine's interfaces.
func TestForbiddenInterfaces(t *testing.T) {
	d := openDoor(t)
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			addr, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
			addr = addr.Unmap()
			if addr.Is6() && !d.six || global(addr) {
				continue
			}
			host := addr.String()
			switch {
			case addr.IsLinkLocalUnicast() && addr.Is6():
				host = "[" + host + "%25" + i.Name + "]"
			case addr.Is6():
				host = "[" + host + "]"
			}
			t.Run(host, func(t *testing.T) {
				d.refuses(t, host, true, nil)
				d.admits(t, host, nil)
			})
		}
	}
}

// door is a port at which all of this machine's addresses listen.
type door struct {
	*net.TCPListener
	port string
	six  bool // ::1 too
}

func openDoor(t *testing.T) *door {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	d := &door{TCPListener: l.(*net.TCPListener)}
	_, d.port, _ = net.SplitHostPort(l.Addr().String())
	if c, err := net.Dial("tcp", "[::1]:"+d.port); err == nil {
		d.six = true
		d.next(t).Close()
		c.Close()
	}
	return d
}

// next is who connected first of those that were not asked for yet.
func (d *door) next(t *testing.T) net.Conn {
	t.Helper()
	if err := d.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := d.Accept()
	if err != nil {
		t.Fatal("nobody connects: ", err)
	}
	return c
}

// untouched holds that nobody has connected: who comes now is the first.
func (d *door) untouched(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+d.port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for {
		first := d.next(t)
		first.Close()
		if first.RemoteAddr().String() == c.LocalAddr().String() {
			return
		}
		t.Errorf("%s connected to %s", first.RemoteAddr(), first.LocalAddr())
	}
}

// refuses holds that a webhook at host is not connected to, nor tried to, and that the user is told so, at creation where
// it is plain.
func (d *door) refuses(t *testing.T, host string, plain bool, dns *net.Resolver) {
	t.Helper()
	reach := Reach{Resolver: dns}
	url := "http://" + host + ":" + d.port + "/"
	switch err := creation(&reach, url); {
	case plain && api.CodeOf(err) != api.CodeNoValidProcessor:
		t.Errorf("at creation: %v", err)
	case !plain && err != nil:
		t.Errorf("at creation: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := watch(&reach, true)
	w.opened = func() { time.AfterFunc(100*time.Millisecond, cancel) } // nobody is going to answer
	err := callAt(ctx, w.dial, url)
	var f *attemptError
	if !errors.As(err, &f) || f.Reason != noAddress && (!plain || f.Reason != "the processor cannot be called") ||
		f.Disable || f.RetryAfter != 0 {
		t.Errorf("got %#v", err)
	}
	for _, s := range w.sockets {
		if s.verdict == nil {
			t.Errorf("a socket may connect to %s", s.address)
		}
	}
	d.untouched(t)
}

// admits holds that a webhook at host is connected to without the guard.
func (d *door) admits(t *testing.T, host string, dns *net.Resolver) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		ended <- callAt(t.Context(), (&net.Dialer{Resolver: dns}).DialContext, "http://"+host+":"+d.port+"/")
	}()
	d.next(t).Close()
	if err := <-ended; err == nil {
		t.Error("the call was answered")
	}
}

// creation is what a systemProc is checked for when it is created.
func creation(r *Reach, url string) error {
	p := api.Processor{URL: url}
	if err := p.Validate(-1); err != nil {
		return err
	}
	return New(Config{Reach: *r}).Check(&p)
}

// callAt calls a webhook.
func callAt(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), url string) error {
	ps := New(Config{Concurrency: 1, Dial: dial}).hire()
	defer ps.close()
	_, err := ps.webhook.process(ctx, &api.Execution{Processor: api.Processor{URL: url}, ReclaimTimeout: -1})
	return err
}

// watched is a Reach's dialer, with what it said of each socket.
type watched struct {
	dialer *net.Dialer
	opened func() // called before a socket connects; may be nil

	mu      sync.Mutex
	sockets []socket
}

type socket struct {
	address string
	verdict error
}

var errNoNetwork = errors.New("no socket of a test connects to others")

// watch hears what is said of each socket. Unless connect, those that may connect do not.
func watch(r *Reach, connect bool) *watched {
	w := &watched{dialer: r.dialer()}
	control := w.dialer.ControlContext
	w.dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		err := control(ctx, network, address, c)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sockets = append(w.sockets, socket{address, err})
		switch {
		case err == nil && !connect:
			return errNoNetwork
		case err == nil && w.opened != nil:
			w.opened()
		}
		return err
	}
	return w
}

func (w *watched) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return w.dialer.DialContext(ctx, network, address)
}

// TestDialed holds that the guard is what calls are made with.
func TestDialed(t *testing.T) {
	d := openDoor(t)
	ps := New(Config{Concurrency: 1}).hire()
	defer ps.close()
	for _, scheme := range []string{"http", "https"} {
		_, err := ps.webhook.process(t.Context(), &api.Execution{ReclaimTimeout: -1,
			Processor: api.Processor{URL: scheme + "://127.0.0.1:" + d.port + "/"}})
		if !errors.Is(err, errForbidden) || err.Error() != noAddress {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	d.untouched(t)
}

// TestOpened calls hosts that were opened.
func TestOpened(t *testing.T) {
	d := openDoor(t)
	dns := resolver(t, func(name string, _ dnsmessage.Type) []string {
		return map[string][]string{
			"one.test":   {"127.0.0.1"},
			"first.test": {"127.0.0.1", "127.0.0.2", "10.0.0.1", "::1", "169.254.169.254"},
			"last.test":  {"127.0.0.2", "10.0.0.1", "64:ff9b::7f00:1", "::1", "0.0.0.0", "127.0.0.1"},
			"alias.test": {"= one.test", "127.0.0.1"},
		}[name]
	})
	one := Reach{Allow: prefixes("127.0.0.1/32"), Resolver: dns}
	loopback := Reach{Loopback: true, Resolver: dns}
	tests := []struct {
		name  string
		reach Reach
		host  string
		at    string
	}{
		{"address", one, "127.0.0.1", "127.0.0.1"},
		{"mapped", one, "[::ffff:7f00:1]", "127.0.0.1"},
		{"full-width", one, "１２７。0.0.1", "127.0.0.1"},
		{"name", one, "one.test", "127.0.0.1"},
		{"localhost", one, "localhost", "127.0.0.1"},
		{"first of several", one, "first.test", "127.0.0.1"},
		{"last of several", one, "last.test", "127.0.0.1"},
		{"alias", one, "alias.test", "127.0.0.1"},
		{"range", Reach{Allow: prefixes("10.0.0.0/8", "127.0.0.0/8")}, "127.1.2.3", "127.1.2.3"},
		{"everything", Reach{Allow: prefixes("0.0.0.0/0")}, "127.0.0.1", "127.0.0.1"},
		{"loopback", loopback, "127.0.0.1", "127.0.0.1"},
		{"loopback's others", loopback, "127.0.0.2", "127.0.0.2"},
		{"loopback's name", loopback, "one.test", "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url := "http://" + tt.host + ":" + d.port + "/"
			if err := creation(&tt.reach, url); err != nil {
				t.Errorf("at creation: %v", err)
			}
			w := watch(&tt.reach, true)
			ended := make(chan error, 1)
			go func() { ended <- callAt(t.Context(), w.dial, url) }()
			c := d.next(t)
			if at, _, _ := net.SplitHostPort(c.LocalAddr().String()); at != tt.at {
				t.Errorf("connected to %s, want %s", at, tt.at)
			}
			accept(t, c)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			d.untouched(t)
		})
	}
}

// accept answers the request on c with 204.
func accept(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

// TestOwn holds that own addresses stay closed, whatever is opened and however they are written; and so do 0.0.0.0 and ::.
func TestOwn(t *testing.T) {
	d := openDoor(t)
	reach := Reach{Loopback: true, Allow: prefixes("0.0.0.0/0", "::/0"),
		Own: func(_ context.Context, at netip.AddrPort) bool {
			if at.Addr().Is4In6() {
				t.Errorf("asked about %s", at)
			}
			return fmt.Sprint(at.Port()) == d.port && (at.Addr() == netip.MustParseAddr("127.0.0.1") || at.Addr() == netip.IPv6Loopback())
		},
		Resolver: resolver(t, func(string, dnsmessage.Type) []string { return []string{"127.0.0.1", "::1"} })}
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]", "１２７.0.0.1", "localhost",
		"LOCALHOST.", "any.localhost", "own.test", "0.0.0.0", "[::]", "[::ffff:0:0]", "[64:ff9b::]", "127.1", "[::1%25lo]"} {
		t.Run(host, func(t *testing.T) {
			url := "http://" + host + ":" + d.port + "/"
			if err := creation(&reach, url); (err == nil) != (host == "own.test") {
				t.Errorf("at creation: %v", err)
			}
			w := watch(&reach, false)
			if err := callAt(t.Context(), w.dial, url); err == nil || err.Error() != noAddress {
				t.Errorf("got %v", err)
			}
			d.untouched(t)
		})
	}
	for _, url := range []string{"http://127.0.0.1:1/", "http://127.0.0.2:" + d.port, "http://localhost:1/", "http://10.0.0.1/",
		"https://[64:ff9b::a00:1]/"} {
		if err := creation(&reach, url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestOwnOfOneLoopback holds that localhost is refused where either of its addresses is an own one.
func TestOwnOfOneLoopback(t *testing.T) {
	for _, own := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		reach := Reach{Loopback: true, Own: func(_ context.Context, at netip.AddrPort) bool { return at.String() == own }}
		for url, want := range map[string]api.Code{
			"http://localhost:8080/":  api.CodeNoValidProcessor,
			"http://localhost:08080/": api.CodeNoValidProcessor,
			"http://localhost:8081/":  "",
			"http://localhost/":       "",
		} {
			if err := creation(&reach, url); api.CodeOf(err) != want {
				t.Errorf("%s, own %s: %v", url, own, err)
			}
		}
	}
	for _, port := range []string{"80", "443"} {
		reach := Reach{Loopback: true, Own: func(_ context.Context, at netip.AddrPort) bool { return fmt.Sprint(at.Port()) == port }}
		for url, own := range map[string]string{"http://localhost": "80", "https://localhost": "443", "http://127.0.0.1:/": "80",
			"https://[::1]/": "443"} {
			if err := creation(&reach, url); (err == nil) != (port != own) {
				t.Errorf("%s, own port %s: %v", url, port, err)
			}
		}
	}
}

// TestRebinding: each call is judged by the address that it connects to, not by what a name meant before.
func TestRebinding(t *testing.T) {
	d := openDoor(t)
	asked := 0
	reach := Reach{Resolver: resolver(t, func(_ string, of dnsmessage.Type) []string {
		if of != dnsmessage.TypeA {
			return []string{}
		}
		asked++
		if asked == 1 {
			return []string{"8.8.8.8"}
		}
		return []string{"127.0.0.1"}
	})}
	url := "http://rebinding.test:" + d.port + "/"
	w := watch(&reach, false)
	if err := creation(&reach, url); err != nil || asked != 0 {
		t.Errorf("at creation, after %d questions: %v", asked, err)
	}
	if err := callAt(t.Context(), w.dial, url); !errors.Is(err, errNoNetwork) {
		t.Errorf("the first time: %v", err)
	}
	if err := callAt(t.Context(), w.dial, url); !errors.Is(err, errForbidden) {
		t.Errorf("the second time: %v", err)
	}
	d.untouched(t)
	if len(w.sockets) != 2 || w.sockets[0].verdict != nil || w.sockets[1].verdict == nil {
		t.Errorf("the sockets: %v", w.sockets)
	}
}

// TestForbiddenRedirect: redirects of a processor that may be called lead nowhere.
func TestForbiddenRedirect(t *testing.T) {
	d := openDoor(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{"http://127.0.0.2:" + d.port + "/", "http://127.0.0.1:" + d.port + "/",
			"https://127.0.0.2:" + d.port + "/", "//127.0.0.2:" + d.port + "/", "/again"} {
			t.Run(fmt.Sprint(status, location), func(t *testing.T) {
				paths := make(chan string, 2)
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					paths <- r.URL.Path
					w.Header().Set("Location", location)
					w.WriteHeader(status)
				}))
				defer s.Close()
				w := watch(&Reach{Allow: prefixes("127.0.0.1/32")}, true)
				err := callAt(t.Context(), w.dial, s.URL)
				if want := fmt.Sprintf("the processor answered %d", status); err == nil || err.Error() != want {
					t.Errorf("got %v, want %q", err, want)
				}
				if len(w.sockets) != 1 {
					t.Errorf("%d sockets", len(w.sockets))
				}
				d.untouched(t)
				if <-paths; len(paths) > 0 {
					t.Errorf("%s was called too", <-paths)
				}
				if location == "/again" {
					return
				}
				// Who follows them arrives.
				ended := make(chan error, 1)
				go func() {
					c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
					res, err := c.Post(s.URL, "", nil)
					if err == nil {
						res.Body.Close()
					}
					ended <- err
				}()
				d.next(t).Close()
				if err := <-ended; err == nil {
					t.Error("no error")
				}
			})
		}
	}
}

// TestPermits goes to the limits of every range.
func TestPermits(t *testing.T) {
	tests := []struct {
		reach Reach
		open  string
		not   string
	}{
		{Reach{},
			`1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
			169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.0.9 192.0.0.10 192.0.1.0 192.0.1.255
			192.0.3.0 192.31.196.1 192.52.193.1 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 192.175.48.1
			198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
			::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::c000:9
			2000:: 2001:1::1 2001:1::2 2001:1::3 2001:3:: 2001:3:ffff:ffff:ffff:ffff:ffff:ffff 2001:4:112::
			2001:4:112:ffff:ffff:ffff:ffff:ffff 2001:20:: 2001:2f:ffff:ffff:ffff:ffff:ffff:ffff 2001:30::
			2001:3f:ffff:ffff:ffff:ffff:ffff:ffff 2001:200:: 2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9:: 2001:4860:4860::8888
			2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2003:: 2606:4700:4700::1111 2620:4f:8000::1
			3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3fff:1000::`,
			`0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.0.0.1 127.255.255.255
			169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.11 192.0.0.255
			192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0
			198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255
			:: ::1 ::2 ::ffff:0:0 ::ffff:7f00:1 ::ffff:a00:1 ::ffff:ffff:ffff ::fffe:808:808 ::1:0:808:808 ::8.8.8.8
			64:ff9b:: 64:ff9b::1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::ffff:ffff 64:ff9b:0:0:0:1:: 64:ff9b::1:808:808
			64:ff9a:ffff:ffff:ffff:ffff:808:808 64:ff9b:1:: 64:ff9b:1::808:808 64:ff9b:1:ffff:ffff:ffff:ffff:ffff 64:ff9b:2::
			100:: 100:0:0:1:: 200:: 1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
			2001:: 2001::1 2001:0:ffff:ffff:ffff:ffff:ffff:ffff 2001:1:: 2001:1::4 2001:2:: 2001:4:: 2001:4:111:ffff:: 2001:4:113::
			2001:10:: 2001:1f:ffff:ffff:ffff:ffff:ffff:ffff 2001:40:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
			2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:: 2002:808:808:: 2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff
			3fff:: 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff 4000:: 5f00:: fbff:: fc00:: fd00:: fdff:: fe00:: fe80:: fe80::1%eth0
			febf:: fec0:: feff:: ff00:: ff02::1 ff0e::1 ffff:: 2606:4700::1%eth0`},
		{Reach{Loopback: true},
			`127.0.0.1 127.0.0.0 127.255.255.255 ::1 ::ffff:127.0.0.1 8.8.8.8`,
			`0.0.0.0 :: ::ffff:0.0.0.0 10.0.0.1 ::2 ::127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1:: 169.254.169.254 ::1%lo`},
		{Reach{Allow: prefixes("10.1.0.0/16", "fd00::/8", "127.0.0.5/32", "2002::/16")},
			`10.1.0.0 10.1.255.255 ::ffff:10.1.2.3 64:ff9b::10.1.2.3 fd00::1 fdff::1 127.0.0.5 2002:7f00:1:: 1.1.1.1`,
			`10.0.255.255 10.2.0.0 64:ff9b::10.2.0.0 fc00::1 127.0.0.1 127.0.0.6 ::1 fd00::1%eth0 0.0.0.0 ::`},
		{Reach{Allow: prefixes("0.0.0.0/0", "::/0")},
			`127.0.0.1 10.0.0.1 0.0.0.1 255.255.255.255 ::1 fe80::1 ff02::1 64:ff9b::7f00:1 ::ffff:10.0.0.1`,
			`0.0.0.0 :: ::ffff:0:0 64:ff9b:: fe80::1%eth0`},
		{Reach{Allow: prefixes("64:ff9b::/96")}, `64:ff9b::10.0.0.1 64:ff9b::127.0.0.1`, `10.0.0.1 127.0.0.1 64:ff9b::0.0.0.0`},
	}
	for i, tt := range tests {
		for addrs, want := range map[string]bool{tt.open: true, tt.not: false} {
			for text := range strings.FieldsSeq(addrs) {
				addr, err := netip.ParseAddr(text)
				if err != nil {
					t.Fatal(err)
				}
				if got := tt.reach.permits(t.Context(), netip.AddrPortFrom(addr, 80)); got != want {
					t.Errorf("%d: %s: %v", i, text, got)
				}
			}
		}
	}
	if err := new(Reach).control(t.Context(), "tcp", ":80", nil); !errors.Is(err, errForbidden) {
		t.Errorf("no address: %v", err)
	}
}

// TestCheckURL is about what is told at creation.
func TestCheckURL(t *testing.T) {
	const further = "; the server's flag --webhook-allow opens ranges of addresses, though never the server's own or its database's"
	tests := []struct{ url, message string }{
		{"https://hooks.example.com/a?b=c", ""},
		{"http://1.1.1.1", ""},
		{"http://[2606:4700:4700::1111]:8443/", ""},
		{"http://hook_1.internal/", ""},
		{"http://1.example/", ""},
		{"http://0x7f.example/", ""},
		{"http://a.0xg/", ""},
		{"http://127.0.0.1.example/", ""},
		{"http://localhost.example/", ""},
		{"http://notlocalhost/", ""},
		{"http://bücher.example/", ""},
		{"http://xn--bcher-kva.example/", ""},
		{"http://10.0.0.1/", "the processor's url names 10.0.0.1, an address that webhooks may not be sent to" + further},
		{"http://[::FFFF:10.0.0.1]/", "the processor's url names ::ffff:10.0.0.1, an address that webhooks may not be sent to" + further},
		{"http://[fe80::1%25" + strings.Repeat("x", 4000) + "]/", "the processor's url names fe80::1, an address that webhooks may not be sent to" + further},
		{"http://localhost:9090/", "the processor's url names localhost, which webhooks may not be sent to" + further},
		{"http://127.1/", "the host of the processor's url is neither a name nor an IPv4 address of four decimal numbers"},
		{"http://8.8.8.8./", "the host of the processor's url is neither a name nor an IPv4 address of four decimal numbers"},
		{"http://1.1.1.1:65536/", "the port of the processor's url is 1 to 65535"},
		{"http://1.1.1.1:0/", "the port of the processor's url is 1 to 65535"},
		{"http://\u2488.example/", "the host of the processor's url is no valid name"},
		{"http://a b/", "the processor's url cannot be read"},
	}
	for _, tt := range tests {
		err := new(Reach).checkURL(tt.url)
		var refused *api.Error
		switch {
		case tt.message == "":
			if err != nil {
				t.Errorf("%s: %v", tt.url, err)
			}
		case !errors.As(err, &refused) || refused.Code != api.CodeNoValidProcessor || refused.Message != tt.message:
			t.Errorf("%s:\n got %v\nwant %s", tt.url, err, tt.message)
		}
	}
}

// TestNoProxy: the environment names proxies for everything, and calls do not ask them.
func TestNoProxy(t *testing.T) {
	for url, want := range map[string]string{"http://hook/": "hook:80", "https://hook/": "hook:443", "http://1.1.1.1:81/": "1.1.1.1:81"} {
		var dialed []string
		dial := func(_ context.Context, _, address string) (net.Conn, error) {
			dialed = append(dialed, address)
			return nil, errNoNetwork
		}
		if err := callAt(t.Context(), dial, url); !errors.Is(err, errNoNetwork) {
			t.Error(err)
		}
		asking := http.Transport{DialContext: dial, Proxy: http.ProxyFromEnvironment}
		req, _ := http.NewRequest(http.MethodPost, url, nil)
		if _, err := asking.RoundTrip(req); err == nil {
			t.Error("an answer")
		}
		if got := strings.Join(dialed, " "); got != want+" 127.0.0.1:1" {
			t.Errorf("%s: dialed %s", url, got)
		}
	}
}

// TestConnectionTimes: a connection that does not come about is given up, whatever time the processor has.
func TestConnectionTimes(t *testing.T) {
	hour := int64(time.Hour / time.Millisecond)
	guarded := Reach{Own: func(ctx context.Context, _ netip.AddrPort) bool {
		<-ctx.Done() // as a connect that is not answered
		return true
	}}
	tests := map[string]struct {
		dial   func(context.Context, string, string) (net.Conn, error)
		url    string
		reason string
	}{
		"dial": {guarded.dial, "http://8.8.8.8/", noAddress},
		"TLS": {func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			return ours, nil
		}, "https://hook/", "the connection to the processor failed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ps := New(Config{Concurrency: 1, Dial: tt.dial}).hire()
				defer ps.close()
				began := time.Now()
				_, err := ps.webhook.process(t.Context(), &api.Execution{ReclaimTimeout: -1,
					Processor: api.Processor{URL: tt.url, Timeout: &hour}})
				if d := time.Since(began); d != dialTimeout {
					t.Errorf("given up after %v", d)
				}
				if err == nil || err.Error() != tt.reason {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

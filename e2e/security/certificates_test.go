//go:build security && linux

package security

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shown is the configuration of a client that shows a certificate.
func (a *authority) shown(t *testing.T, cert, key string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c := a.config()
	// Shown whatever authorities the server says that it trusts.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c
}

// launchCertified is launch of a server that lets in by certificates of clients alone, of the authority that it answers with; ca
// is the one of its own certificate, which is the same.
func launchCertified(t *testing.T, flags ...string) (s *server, ca *authority, friend *tls.Config) {
	t.Helper()
	ca = newAuthority(t)
	cert, key := ca.issue(t, "server", x509.ExtKeyUsageServerAuth, nil)
	s = launch(t, append([]string{"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca.file}, flags...)...)
	cert, key = ca.issue(t, "friend", x509.ExtKeyUsageClientAuth, nil)
	friend = ca.shown(t, cert, key)
	transport := transportOf(s.straight)
	transport.TLSClientConfig, transport.ForceAttemptHTTP2 = friend.Clone(), true
	return s, ca, friend
}

// asks makes a connection by TLS and a request on it, and answers the status. An error: it was not let in.
func (s *server) asks(config *tls.Config, request string) (int, error) {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.address, config)
	if err != nil {
		return 0, err
	}
	w := newWire(s.t, conn)
	defer w.reset()
	w.send(request)
	a, err := w.answer("GET") // that a certificate is refused is told after the client's part of the handshake
	if err != nil {
		return 0, err
	}
	return a.status, nil
}

const topicsOfAll = "GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// TestCertificates: a certificate that is not of the authority, not of now, or not for clients lets nobody in; nor does what is
// older than TLS 1.2, or no TLS at all.
func TestCertificates(t *testing.T) {
	t.Parallel()
	s, ca, friend := launchCertified(t)
	s.call("POST", "/v1/topics/t/logs", "{}").is(http.StatusCreated)
	other := newAuthority(t)
	show := func(from *authority, name string, usage x509.ExtKeyUsage, change func(*x509.Certificate)) *tls.Config {
		cert, key := from.issue(t, name, usage, change)
		return ca.shown(t, cert, key)
	}
	forClients, now := x509.ExtKeyUsageClientAuth, time.Now()
	leaf := &authority{dir: t.TempDir()} // who has a certificate, and plays the authority by it
	func() {
		cert, key := ca.issue(t, "leaf", forClients, nil)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		leaf.cert, leaf.key = pair.Leaf, ecdsaKey(t, pair)
	}()
	through := show(leaf, "through", forClients, nil)
	chained, _ := through.GetClientCertificate(nil)
	chained.Certificate = append(chained.Certificate, leaf.cert.Raw)
	namesake := newAuthority(t) // of the same name, with another key
	without := ca.config()
	mixed := ca.config() // one's certificate, another's key
	func() {
		cert, _ := ca.issue(t, "one", forClients, nil)
		_, key := ca.issue(t, "another", forClients, nil)
		one, err := tls.LoadX509KeyPair(cert, strings.TrimSuffix(cert, ".pem")+".key")
		if err != nil {
			t.Fatal(err)
		}
		another, err := tls.LoadX509KeyPair(strings.TrimSuffix(key, ".key")+".pem", key)
		if err != nil {
			t.Fatal(err)
		}
		one.PrivateKey = another.PrivateKey
		mixed.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &one, nil }
	}()
	bad := map[string]*tls.Config{
		"none":                      without,
		"another authority's":       show(other, "foreign", forClients, nil),
		"a namesake authority's":    show(namesake, "foreign", forClients, nil),
		"self-signed":               ca.shown(t, other.file, selfKey(t, other)),
		"expired":                   show(ca, "expired", forClients, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		"not yet valid":             show(ca, "early", forClients, func(c *x509.Certificate) { c.NotBefore = now.Add(10 * time.Minute) }),
		"a server's":                show(ca, "servers", x509.ExtKeyUsageServerAuth, nil),
		"for signing code":          show(ca, "code", x509.ExtKeyUsageCodeSigning, nil),
		"issued by who may not":     through,
		"with somebody else's key":  mixed,
		"of an unknown constraint":  show(ca, "critical", forClients, func(c *x509.Certificate) { c.ExtraExtensions = unknownCritical }),
		"the server's own as it is": show(ca, "own", x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) { c.Subject.CommonName = "server" }),
	}
	s.under(bounds{memory: 64, goroutines: 200}, func() {
		for name, config := range bad {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				config := config.Clone()
				config.MinVersion, config.MaxVersion = version, version
				for _, request := range []string{topicsOfAll, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
					"DELETE /v1/topics/t HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
					if status, err := s.asks(config, request); err == nil {
						t.Errorf("a certificate, %s, by %s: %d", name, tls.VersionName(version), status)
					}
				}
			}
		}
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
			config := friend.Clone()
			config.MinVersion, config.MaxVersion = version, version
			config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}
			if status, err := s.asks(config, topicsOfAll); err == nil {
				t.Errorf("%s: %d", tls.VersionName(version), status)
			}
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config := friend.Clone()
			config.MinVersion, config.MaxVersion = version, version
			if status, err := s.asks(config, topicsOfAll); err != nil || status != http.StatusOK {
				t.Errorf("a friend, by %s: %d %v", tls.VersionName(version), status, err)
			}
		}
		for _, weak := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA} {
			config := friend.Clone()
			config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{weak}
			if status, err := s.asks(config, topicsOfAll); err == nil {
				t.Errorf("%s: %d", tls.CipherSuiteName(weak), status)
			}
		}
		for _, request := range []string{topicsOfAll, "DELETE /v1/topics/t HTTP/1.1\r\nHost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
			w := s.wire()
			w.send(request)
			text, err := w.end(limit)
			if status := status(text); err != nil || status != 0 && status != http.StatusBadRequest || strings.Contains(text, `"t"`) {
				t.Errorf("plain HTTP: %.300q %v", text, err)
			}
			w.reset()
		}
	})
}

// TestRevokedAuthority: an authority that is removed lets nobody in any more, not even by a session that began before; the one in
// its place does. A file that is no good changes nothing.
func TestRevokedAuthority(t *testing.T) {
	t.Parallel()
	s, ca, friend := launchCertified(t)
	other := newAuthority(t)
	cert, key := other.issue(t, "newcomer", x509.ExtKeyUsageClientAuth, nil)
	newcomer := ca.shown(t, cert, key)
	friend = friend.Clone()
	friend.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	before := s.state()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS13} {
		friend.MaxVersion = version
		if status, err := s.asks(friend, topicsOfAll); err != nil || status != http.StatusOK {
			t.Errorf("a friend: %d %v", status, err)
		}
	}
	if _, err := s.asks(newcomer, topicsOfAll); err == nil {
		t.Error("the newcomer is let in too early")
	}
	replace := func(text []byte) {
		if err := os.WriteFile(filepath.Join(ca.dir, "new"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(ca.dir, "new"), ca.file); err != nil {
			t.Fatal(err)
		}
	}
	for i, broken := range []string{"", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		replace([]byte(broken))
		s.eventually("the broken file is told of", func() bool { return strings.Count(s.log.String(), "changed files are not used") == i+1 })
		if status, err := s.asks(friend, topicsOfAll); err != nil || status != http.StatusOK {
			t.Errorf("a friend, while the file is %q: %d %v", broken, status, err)
		}
		if _, err := s.asks(ca.config(), topicsOfAll); err == nil {
			t.Errorf("nothing needs to be shown while the file is %q", broken)
		}
	}
	text, err := os.ReadFile(other.file)
	if err != nil {
		t.Fatal(err)
	}
	replace(text)
	s.eventually("the new authority is told of", func() bool { return strings.Contains(s.log.String(), "changed files are in use") })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		friend.MaxVersion = version
		if status, err := s.asks(friend, topicsOfAll); err == nil {
			t.Errorf("a friend of the removed authority, by %s: %d", tls.VersionName(version), status)
		}
	}
	if status, err := s.asks(newcomer, topicsOfAll); err != nil || status != http.StatusOK {
		t.Errorf("the newcomer: %d %v", status, err)
	}
	s.unchanged(before)
}

// TestCertificateBesideKeys: where both are asked for, neither replaces the other.
func TestCertificateBesideKeys(t *testing.T) {
	t.Parallel()
	people := newPeople(t)
	s, ca, friend := launchCertified(t, "--api-keys-file", people.file)
	ask := func(authorization string) string {
		return fmt.Sprintf("GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", authorization)
	}
	if status, err := s.asks(friend, ask("")); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a certificate alone: %d %v", status, err)
	}
	if status, err := s.asks(ca.config(), ask(people.says[roleAdmin])); err == nil {
		t.Errorf("a key alone: %d", status)
	}
	if status, err := s.asks(friend, ask(people.says[roleRead])); err != nil || status != http.StatusOK {
		t.Errorf("both: %d %v", status, err)
	}
}

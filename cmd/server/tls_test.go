package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(dir, "ca.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue makes a certificate for 127.0.0.1 and writes it with its key.
func (a *authority) issue(t *testing.T, dir, name string, usages ...x509.ExtKeyUsage) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: usages, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "PRIVATE KEY", pkcs8)
	return cert, key
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// client is one that trusts the authority, and shows the certificates given.
func (a *authority) client(t *testing.T, change func(*tls.Config)) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(a.cert)
	if change != nil {
		change(config)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "server", x509.ExtKeyUsageServerAuth)
	p := launch(t, nil, onDatabase(t, "--tls-cert", cert, "--tls-key", key)...)
	u := p.url(t)
	if u[:8] != "https://" {
		t.Errorf("the address is %s", u)
	}
	res, err := ca.client(t, nil).Get(u + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
		t.Errorf("%s %s", res.Proto, res.Status)
	}
	if code, _, stderr := runs(t, nil, "healthcheck", "--url", u); code != 0 {
		t.Errorf("healthcheck: %d %s", code, stderr)
	}
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", u[len("https://"):], old); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	if status, _, err := try("GET", "http"+u[5:], "/readyz", ""); err == nil && status == http.StatusOK {
		t.Error("plain HTTP is spoken")
	}
	p.stop(t)
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	dir, otherDir := t.TempDir(), t.TempDir()
	ca, other := newAuthority(t, dir), newAuthority(t, otherDir)
	cert, key := ca.issue(t, dir, "server", x509.ExtKeyUsageServerAuth)
	// With client certificates an address that others reach needs no --insecure.
	p := launch(t, nil, onDatabase(t, "--listen=0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca.file)...)
	u := p.url(t)
	p.url(t)
	showing := func(a *authority, name string) func(*tls.Config) {
		cert, key := a.issue(t, filepath.Dir(a.file), name, x509.ExtKeyUsageClientAuth)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} }
	}
	if status, answer, err := tryBy(ca.client(t, showing(ca, "friend")), "GET", u, "/readyz", ""); err != nil || status != 200 {
		t.Errorf("a client of ours: %d %s, %v", status, answer, err)
	}
	if _, _, err := tryBy(ca.client(t, showing(other, "stranger")), "GET", u, "/readyz", ""); err == nil {
		t.Error("a stranger's certificate is taken")
	}
	if _, _, err := tryBy(ca.client(t, nil), "GET", u, "/readyz", ""); err == nil {
		t.Error("no certificate is needed")
	}
	both, bothKey := ca.issue(t, dir, "both", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	for _, c := range []struct {
		what      string
		cert, key string
		code      int
		told      string
	}{
		{"no certificate", "", "", 1, "--tls-cert"},
		{"the server's", cert, key, 1, "tls: "},
		{"a stranger's", filepath.Join(otherDir, "stranger.pem"), filepath.Join(otherDir, "stranger.key"), 1, "tls: "},
		{"one that is not there", filepath.Join(dir, "none"), key, 1, "none"},
		{"a client's", filepath.Join(dir, "friend.pem"), filepath.Join(dir, "friend.key"), 0, ""},
		{"one for servers and clients", both, bothKey, 0, ""},
	} {
		code, _, stderr := runs(t, nil, "healthcheck", "--url", u, "--tls-cert="+c.cert, "--tls-key="+c.key)
		if code != c.code || !strings.Contains(stderr, c.told) || (stderr == "") != (code == 0) {
			t.Errorf("healthcheck with %s: %d %q", c.what, code, stderr)
		}
	}
	env := []string{"PIPEPROC_LISTEN=0.0.0.0" + u[strings.LastIndex(u, ":"):] + ",unix:/s", "PIPEPROC_TLS_CERT=" + both, "PIPEPROC_TLS_KEY=" + bothKey}
	if code, _, stderr := runs(t, env, "healthcheck"); code != 0 {
		t.Errorf("healthcheck by the environment: %d %q", code, stderr)
	}
	p.stop(t)
}

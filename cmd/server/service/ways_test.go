package service

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipeproc/pgstore/pgtest"
)

// pair is a certificate for 127.0.0.1 that signs itself, or is signed by another, in PEM.
type pair struct {
	cert, key []byte
	leaf      *x509.Certificate
	private   *ecdsa.PrivateKey
}

func newPair(t *testing.T, name string, by *pair, until time.Time) *pair {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        by == nil, BasicConstraintsValid: true}
	parent, signer := template, private
	if by != nil {
		parent, signer = by.leaf, by.private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), leaf, private}
}

// Certificates, keys and authorities are those of the files as they are now; broken files change nothing.
func TestCertificatesAreReadAgain(t *testing.T) {
	later := time.Now().Add(time.Hour)
	server, server2 := newPair(t, "server", nil, later), newPair(t, "server two", nil, later)
	ca, ca2 := newPair(t, "ca", nil, later), newPair(t, "ca two", nil, later)
	mine, theirs := newPair(t, "mine", ca, later), newPair(t, "theirs", ca2, later)
	expired, own := newPair(t, "expired", ca, time.Now().Add(-time.Hour)), newPair(t, "its own", nil, later)

	dir := t.TempDir()
	c := Config{TLSCert: filepath.Join(dir, "cert"), TLSKey: filepath.Join(dir, "key"), TLSClientCA: filepath.Join(dir, "ca")}
	put := func(server, ca *pair) {
		t.Helper()
		write(t, c.TLSCert, string(server.cert))
		write(t, c.TLSKey, string(server.key))
		write(t, c.TLSClientCA, string(ca.cert))
	}
	put(server, ca)
	var log bytes.Buffer
	config, files, err := secure(&c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	defer func() { ln.Close(); <-served }()
	cache := tls.NewLRUClientSessionCache(10)
	// asked is the server's name as a client sees it; "" where it is not let in.
	asked := func(by *pair, most uint16) string {
		t.Helper()
		client := &tls.Config{InsecureSkipVerify: true, MaxVersion: most, ClientSessionCache: cache}
		if by != nil {
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{by.leaf.Raw}, PrivateKey: by.private}, nil
			}
		}
		conn, err := tls.Dial("tcp", ln.Addr().String(), client)
		if err != nil {
			return ""
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			return ""
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return ""
		}
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	is := func(what string, by *pair, most uint16, want string) {
		t.Helper()
		if got := asked(by, most); got != want {
			t.Errorf("%s: the server is %q, want %q", what, got, want)
		}
	}
	is("its authority's", mine, 0, "server")
	is("TLS 1.2", mine, tls.VersionTLS12, "server")
	is("TLS 1.1", mine, tls.VersionTLS11, "")
	is("none", nil, 0, "")
	is("a foreign one", theirs, 0, "")
	is("an expired one", expired, 0, "")
	is("one signed by itself", own, 0, "")

	put(server2, ca2)
	files.look()
	files.look()
	is("of the authority that is gone", mine, 0, "")
	is("of the new authority", theirs, 0, "server two")

	for what, broken := range map[string]func(){
		"key":         func() { write(t, c.TLSKey, string(server.key)) },
		"certificate": func() { write(t, c.TLSCert, "-----BEGIN") },
		"authorities": func() { write(t, c.TLSClientCA, "") },
	} {
		log.Reset()
		put(server2, ca2)
		broken()
		files.look()
		files.look()
		is("with a broken "+what, theirs, 0, "server two")
		if !strings.Contains(log.String(), "what was read before stays") {
			t.Errorf("a broken %s is not told of: %s", what, log.String())
		}
	}
}

func TestSocketMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} {
		ln, err := endpoint{path: path, mode: mode}.listen(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%v, %v, want %v", info.Mode(), err, mode)
		}
		if _, err := (endpoint{path: path, mode: mode}).listen(context.Background()); err == nil {
			t.Error("a socket that is served was replaced")
		}
		ln.(*net.UnixListener).SetUnlinkOnClose(false) // as when the server is killed: the next one replaces the file
		ln.Close()
	}
}

// TestKeysOfARunningServer lets clients in by the keys of a file that changes, and ends their streams.
func TestKeysOfARunningServer(t *testing.T) {
	c := DefaultConfig()
	c.Listen = []string{"127.0.0.1:0"}
	c.DatabaseURL, c.UnsafeDurability, c.Logger = pgtest.Database(t), true, pgtest.Logger()
	c.APIKeysFile = filepath.Join(t.TempDir(), "keys")
	write(t, c.APIKeysFile, "")
	s, stop := run(t, c)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	send := func(method, path, key, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, s.URLs()[0]+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	var printed strings.Builder
	if err := Keygen([]string{"--name", "ci", "--role", "write"}, &printed); err != nil {
		t.Fatal(err)
	}
	key, line, _ := strings.Cut(printed.String(), "\n")
	status := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			res := send("GET", "/v1/topics", key, "")
			res.Body.Close()
			if res.StatusCode == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("still %s, want %d", res.Status, want)
			}
		}
	}
	status(401)
	write(t, c.APIKeysFile, line)
	status(200)
	if res := send("GET", "/readyz", "", ""); res.StatusCode != 200 {
		t.Errorf("readyz: %s", res.Status)
	}
	if res := send("DELETE", "/v1/topics/t", key, ""); res.StatusCode != 403 {
		t.Errorf("DELETE of a topic: %s", res.Status)
	}
	res := send("POST", "/v1/stream-tickets", key, `{"path":"/v1/topics/t/live"}`)
	var made struct{ Ticket string }
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	var streams []*bufio.Reader
	for _, res := range []*http.Response{send("GET", "/v1/tail?topic=t", key, ""),
		send("GET", "/v1/topics/t/live?ticket="+made.Ticket+"&mode=all", "", "")} {
		if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		stream := bufio.NewReader(res.Body)
		if _, err := stream.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	waiting := make(chan int, 1)
	go func() {
		waiting <- send("POST", "/v1/procs/p/claim", key, `{"topic":"t","wait":60000}`).StatusCode
	}()
	for send("GET", "/v1/procs/p", key, "").StatusCode != 200 { // until the claim waits
	}
	write(t, c.APIKeysFile, "")
	for _, stream := range streams {
		_, _ = io.Copy(io.Discard, stream) // it ends
	}
	status(401)
	if got := <-waiting; got != 401 {
		t.Errorf("who waited was told %d", got)
	}
	if res := send("GET", "/v1/topics/t/live?ticket="+made.Ticket, "", ""); res.StatusCode != 401 {
		t.Errorf("the ticket of a key that is gone: %s", res.Status)
	}
	client.CloseIdleConnections()
	stop()
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"pipeproc/cmd/server/service"
)

// healthcheckTime is how long the server may take to tell that it is ready.
const healthcheckTime = 4 * time.Second

// healthcheck asks a running server whether it is ready, for container engines: exit 0 or 1. What is not told by flags it
// takes from the server's own variables.
func healthcheck(args []string) int {
	set := flag.NewFlagSet("healthcheck", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	url := set.String("url", "", "")
	cert := set.String("tls-cert", os.Getenv("PIPEPROC_TLS_CERT"), "")
	key := set.String("tls-key", os.Getenv("PIPEPROC_TLS_KEY"), "")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(healthcheckHelp)
		return exitOK
	case err != nil:
		return fail(exitUsage, err)
	case set.NArg() > 0:
		return fail(exitUsage, fmt.Errorf("unexpected argument %q", set.Arg(0)))
	}
	if *url == "" {
		*url = ownURL(os.Getenv)
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthcheckTime)
	defer cancel()
	if err := askReady(ctx, *url, *cert, *key); err != nil {
		return fail(exitFailed, err)
	}
	return exitOK
}

const healthcheckHelp = `server healthcheck [flags]: exit 0 when a running server is ready, else tell why and exit 1.

  --url URL        http://host:port, https://host:port or unix:/path.sock (default: the first address of
                   PIPEPROC_LISTEN, with https where PIPEPROC_TLS_CERT is set; else http://127.0.0.1:8080)
  --tls-cert FILE  a certificate (PEM) to show to a server that asks for one, --tls-client-ca
                   (default: PIPEPROC_TLS_CERT, the server's own, if its authorities take that)
  --tls-key FILE   its private key (PEM; default: PIPEPROC_TLS_KEY)

It needs no API key. A server with --tls-client-ca that also listens on a Unix socket needs no certificate there.
`

// ownURL is where a server with this environment listens, as seen from its own machine.
func ownURL(env func(string) string) string {
	address, _, _ := strings.Cut(env("PIPEPROC_LISTEN"), ",")
	if address = strings.TrimSpace(address); address == "" {
		address = service.DefaultConfig().Listen[0]
	}
	if strings.HasPrefix(address, "unix:") {
		return address
	}
	scheme := "http"
	if env("PIPEPROC_TLS_CERT") != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return scheme + "://" + address
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// askReady answers nil when GET /readyz at url answers 200. The files are read where the server asks for a certificate.
func askReady(ctx context.Context, url, cert, key string) error {
	config := &tls.Config{
		// The server is asked whether it is ready, nothing secret is sent, and its certificate names hosts that this
		// address is none of.
		InsecureSkipVerify: true, //nolint:gosec // see above
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == "" || key == "" {
				return nil, errors.New("the server asks for a certificate, and none was given: --tls-cert and --tls-key name one")
			}
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		},
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	if path, ok := strings.CutPrefix(url, "unix:"); ok {
		url = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("not ready: %s %s", res.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

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

// healthcheck asks a running server whether it is ready, for container engines: exit 0 or 1. Without --url it asks the
// first address that PIPEPROC_LISTEN names, else the default one.
func healthcheck(args []string) int {
	set := flag.NewFlagSet("healthcheck", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	url := set.String("url", "", "")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print("server healthcheck [--url URL]: exit 0 when the server at URL is ready.\n\n" +
			"URL is http://host:port, https://host:port or unix:/path.sock. Default: the first address of PIPEPROC_LISTEN,\n" +
			"else http://127.0.0.1:8080.\n")
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
	if err := askReady(ctx, *url); err != nil {
		return fail(exitFailed, err)
	}
	return exitOK
}

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

// askReady answers nil when GET /readyz at url answers 200.
func askReady(ctx context.Context, url string) error {
	// The server is asked whether it is ready, nothing secret is sent, and its certificate names hosts that this address
	// is none of: so it is not verified.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
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

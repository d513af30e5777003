// Package service wires the rooms of the house to one server: it reads the flags, starts PostgreSQL, the store, the
// listeners and the loops in order, and stops them in the reverse order.
package service

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"pipeproc/api"
	"pipeproc/httpapi"
)

// Config says how a server runs. DefaultConfig gives the defaults; the zero Config is not valid.
type Config struct {
	// Listen names the listeners: "host:port", where port 0 takes a free one, or "unix:/path.sock".
	Listen []string

	// TLSCert and TLSKey are PEM files; with them the TCP listeners speak TLS alone. With TLSClientCA, a PEM file too,
	// clients must show a certificate signed by one of its authorities.
	TLSCert, TLSKey, TLSClientCA string

	// SocketMode is the mode of Unix sockets' files.
	SocketMode fs.FileMode

	// APIKeysFile holds the API keys of which clients need one, see Keygen. TicketSecretFile holds a secret that servers
	// share which are to take each other's stream tickets. Both may be left out.
	APIKeysFile, TicketSecretFile string

	// Insecure allows a TCP listener that other machines can reach, although nobody has to prove who they are.
	Insecure bool

	// AllowedHosts are names that the Host header of a request may have, besides those of loopback; CORSOrigins are origins
	// whose pages may use the server. See httpapi.Config.
	AllowedHosts, CORSOrigins []string

	// AllowShutdown allows POST /v1/shutdown.
	AllowShutdown bool

	// StreamMaxAge is how long one SSE stream lasts before it is ended for the client to connect anew, at least a second.
	StreamMaxAge time.Duration

	// MaxStreams, MaxStreamsPerAddress and MaxStreamsPerKey are the most streams, of events or of lines, that are open at a
	// time: in all, from one address, and with one API key. 0: no limit.
	MaxStreams, MaxStreamsPerAddress, MaxStreamsPerKey int

	// MaxConnections is the most TCP connections of clients that are open at a time. 0: as many as the process may have.
	MaxConnections int

	// RateLimit is how many requests a second one address, and one API key, may make. 0: any number.
	RateLimit int

	// TrustedProxies are addresses, or ranges of them, whose X-Forwarded-For is believed; "unix": all Unix sockets.
	TrustedProxies []string

	// Namespace is the PostgreSQL schema's, see api.CheckNamespace.
	Namespace string

	// DatabaseURL names a PostgreSQL to use. Without it a private one runs: on DataDir, or, with Memory, on a temporary
	// folder that is removed at the end. Memory with a DatabaseURL is refused.
	DatabaseURL string
	DataDir     string
	Memory      bool

	// DatabaseDirectURL names the same PostgreSQL without a pooler between, where DatabaseURL leads through one that gives
	// each transaction another session. Empty: DatabaseURL leads to PostgreSQL itself, or through a pooler of sessions.
	DatabaseDirectURL string

	// PostgresBin is the folder of the private PostgreSQL's binaries; empty: they are searched for.
	PostgresBin string

	// UnsafeDurability accepts a database that may lose what it has confirmed.
	UnsafeDurability bool

	// Workers × WorkerConcurrency executions of systemProcs run at a time. Workers 0: none, on this server. A worker
	// starts anew after WorkerRestartAfter executions; 0 never.
	Workers, WorkerConcurrency, WorkerRestartAfter int

	// InlineProcessors lets systemProcs have functions that run in this process.
	InlineProcessors bool

	// WebhookAllow names addresses, or ranges of them ("10.1.0.0/16"), that webhooks may be called at besides public ones.
	WebhookAllow []string

	// GC runs garbage collection every GCInterval ms, for logs older than GCMinPruneTime ms.
	GC             bool
	GCMinPruneTime int64
	GCInterval     int64

	// LogLevel and LogFormat ("text" or "json") are those of the log on stderr.
	LogLevel  slog.Level
	LogFormat string

	// PprofListen, when not empty, is a loopback address at which net/http/pprof is served: "host:port", where port 0 takes
	// a free one, which the log tells.
	PprofListen string

	// Version is told to webhooks.
	Version string

	// Logger, when not nil, is used instead of the log on stderr.
	Logger *slog.Logger

	// Out, when not nil, receives one line for every listener when it serves.
	Out io.Writer
}

// DefaultConfig is the configuration of a server without flags.
func DefaultConfig() Config {
	return Config{
		Listen:               []string{"127.0.0.1:8080"},
		SocketMode:           0o600,
		StreamMaxAge:         10 * time.Minute,
		MaxStreams:           20_000,
		MaxStreamsPerAddress: 20_000,
		MaxStreamsPerKey:     20_000,
		MaxConnections:       25_000,
		Namespace:            "default",
		DataDir:              "./pipeproc_data",
		Workers:              1,
		WorkerConcurrency:    64,
		GCMinPruneTime:       30_000,
		GCInterval:           30_000,
		LogFormat:            "text",
	}
}

// Limits of what may be configured.
const (
	maxWorkers     = 1_000
	maxConcurrency = 100_000
	maxMillis      = 100 * 365 * 24 * 3_600_000
)

// validate answers the first thing that is wrong, in the words of the flags.
func (c *Config) validate() error {
	switch {
	case len(c.Listen) == 0:
		return errors.New("--listen: no address given")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key are given together")
	case c.TLSClientCA != "" && c.TLSCert == "":
		return errors.New("--tls-client-ca needs --tls-cert and --tls-key")
	case c.StreamMaxAge < time.Second:
		return errors.New("--stream-max-age is at least 1s")
	case c.MaxStreams < 0:
		return errors.New("--max-streams is 0 (no limit) or a number of streams")
	case c.MaxStreamsPerAddress < 0:
		return errors.New("--max-streams-per-address is 0 (no limit) or a number of streams")
	case c.MaxStreamsPerKey < 0:
		return errors.New("--max-streams-per-key is 0 (no limit) or a number of streams")
	case c.MaxConnections < 0:
		return errors.New("--max-connections is 0 (no limit) or a number of connections")
	case c.RateLimit < 0:
		return errors.New("--rate-limit is 0 (no limit) or a number of requests a second")
	case c.Memory && c.DatabaseURL != "":
		return errors.New("--memory is a private throw-away PostgreSQL: it cannot be had with a database URL")
	case c.DatabaseDirectURL != "" && c.DatabaseURL == "":
		return errors.New("--database-direct-url goes beside --database-url")
	case c.DatabaseURL == "" && !c.Memory && c.DataDir == "":
		return errors.New("--data-dir: no folder given")
	case c.GCMinPruneTime < 0 || c.GCMinPruneTime > maxMillis:
		return fmt.Errorf("--gc-min-prune-time is 0 to %d ms", int64(maxMillis))
	case c.GCInterval < 1 || c.GCInterval > maxMillis:
		return fmt.Errorf("--gc-interval is 1 to %d ms", int64(maxMillis))
	case c.Workers < 0 || c.Workers > maxWorkers:
		return fmt.Errorf("--workers is 0 to %d", maxWorkers)
	case c.WorkerConcurrency < 1 || c.WorkerConcurrency > maxConcurrency:
		return fmt.Errorf("--worker-concurrency is 1 to %d", maxConcurrency)
	case c.WorkerRestartAfter < 0:
		return errors.New("--worker-restart-after is 0 (never) or a number of executions")
	case c.LogFormat != "text" && c.LogFormat != "json":
		return fmt.Errorf("--log-format %q: it is text or json", c.LogFormat)
	}
	if err := c.checkPages(); err != nil {
		return err
	}
	if _, err := webhookAllow(c.WebhookAllow); err != nil {
		return err
	}
	if _, err := trustedProxies(c.TrustedProxies); err != nil {
		return err
	}
	for _, u := range []struct{ flag, url string }{{"--database-url", c.DatabaseURL}, {"--database-direct-url", c.DatabaseDirectURL}} {
		if u.url == "" {
			continue
		}
		if err := checkDatabaseURL(u.url); err != nil {
			return fmt.Errorf("%s: %w", u.flag, err)
		}
	}
	if _, err := tracing(); err != nil {
		return err
	}
	if err := api.CheckNamespace(c.Namespace); err != nil {
		var e *api.Error
		if errors.As(err, &e) {
			return errors.New("--" + e.Message)
		}
		return err
	}
	return nil
}

// checkPages checks what is told of browsers, and makes hosts lower case.
func (c *Config) checkPages() error {
	for _, origin := range c.CORSOrigins {
		if err := httpapi.ParseOrigin(origin); err != nil {
			return fmt.Errorf("--cors-origin: %w", err)
		}
	}
	for i, host := range c.AllowedHosts {
		if err := httpapi.ParseHost(host); err != nil {
			return fmt.Errorf("--allowed-host: %w", err)
		}
		c.AllowedHosts[i] = strings.ToLower(host)
	}
	return nil
}

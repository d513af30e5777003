// Package service wires the rooms of the house to one server: it reads the flags, starts PostgreSQL, the store, the
// listeners and the loops in order, and stops them in the reverse order.
package service

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"pipeproc/api"
)

// Config says how a server runs. DefaultConfig gives the defaults; the zero Config is not valid.
type Config struct {
	// Listen names the listeners: "host:port", where port 0 takes a free one, or "unix:/path.sock".
	Listen []string

	// TLSCert and TLSKey are PEM files; with them the TCP listeners speak TLS alone. With TLSClientCA, a PEM file too,
	// clients must show a certificate signed by one of its authorities.
	TLSCert, TLSKey, TLSClientCA string

	// Insecure allows a TCP listener that other machines can reach, although nobody has to prove who they are.
	Insecure bool

	// AllowShutdown allows POST /v1/shutdown.
	AllowShutdown bool

	// StreamMaxAge is how long one SSE stream lasts before it is ended for the client to connect anew, at least a second.
	StreamMaxAge time.Duration

	// MaxStreams and MaxStreamsPerAddress are the most streams, of events or of lines, that are open at a time: in all, and
	// from one address. 0: no limit.
	MaxStreams, MaxStreamsPerAddress int

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
		StreamMaxAge:         10 * time.Minute,
		MaxStreams:           20_000,
		MaxStreamsPerAddress: 20_000,
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
	if _, err := webhookAllow(c.WebhookAllow); err != nil {
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

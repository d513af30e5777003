package service

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

func TestParseConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte("postgres://from-file/db\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Config)) Config {
		c := DefaultConfig()
		change(&c)
		return c
	}
	tests := map[string]struct {
		args []string
		env  map[string]string
		want Config
	}{
		"nothing": {want: DefaultConfig()},
		"every flag": {
			args: []string{"--listen", "127.0.0.1:1", "--listen=unix:/s", "--tls-cert=c", "--tls-key=k", "--tls-client-ca=a",
				"--socket-mode=0660", "--api-keys-file=f", "--ticket-secret-file=s", "--allowed-host=A.example", "--allowed-host=b",
				"--cors-origin=https://app.example", "--insecure", "--allow-shutdown", "--stream-max-age=1m", "--max-streams=7",
				"--max-streams-per-address=8", "--max-streams-per-key=9",
				"--max-connections=10", "--rate-limit=11", "--trusted-proxy=10.0.0.0/8", "--trusted-proxy", "unix", "--namespace=n", "--database-url=postgres:///x",
				"--database-direct-url=postgres:///y",
				"--data-dir=d", "--postgres-bin=b", "--unsafe-durability", "--workers=2", "--worker-concurrency=3",
				"--worker-restart-after=4", "--inline-processors", "--webhook-allow=10.0.0.0/8", "--webhook-allow", "::1", "--gc",
				"--gc-min-prune-time=5", "--gc-interval=6", "--log-level=debug", "--log-format=json", "--pprof-listen=[::1]:1"},
			want: Config{Listen: []string{"127.0.0.1:1", "unix:/s"}, TLSCert: "c", TLSKey: "k", TLSClientCA: "a", Insecure: true,
				SocketMode: 0o660, APIKeysFile: "f", TicketSecretFile: "s", AllowedHosts: []string{"a.example", "b"},
				CORSOrigins: []string{"https://app.example"}, AllowShutdown: true, StreamMaxAge: time.Minute, MaxStreams: 7, MaxStreamsPerAddress: 8, MaxStreamsPerKey: 9,
				MaxConnections: 10, RateLimit: 11, TrustedProxies: []string{"10.0.0.0/8", "unix"}, Namespace: "n",
				DatabaseURL: "postgres:///x", DatabaseDirectURL: "postgres:///y", DataDir: "d",
				PostgresBin: "b", UnsafeDurability: true, Workers: 2, WorkerConcurrency: 3, WorkerRestartAfter: 4,
				InlineProcessors: true, WebhookAllow: []string{"10.0.0.0/8", "::1"}, GC: true, GCMinPruneTime: 5, GCInterval: 6, LogLevel: slog.LevelDebug, LogFormat: "json",
				PprofListen: "[::1]:1"},
		},
		"every variable": {
			env: map[string]string{"PIPEPROC_LISTEN": "127.0.0.1:1, unix:/s", "PIPEPROC_TLS_CERT": "c", "PIPEPROC_TLS_KEY": "k",
				"PIPEPROC_SOCKET_MODE": "660", "PIPEPROC_API_KEYS_FILE": "f", "PIPEPROC_TICKET_SECRET_FILE": "s",
				"PIPEPROC_ALLOWED_HOST": "A.example, b", "PIPEPROC_CORS_ORIGIN": "https://app.example",
				"PIPEPROC_TLS_CLIENT_CA": "a", "PIPEPROC_INSECURE": "true", "PIPEPROC_ALLOW_SHUTDOWN": "1",
				"PIPEPROC_STREAM_MAX_AGE": "1m", "PIPEPROC_MAX_STREAMS": "7", "PIPEPROC_MAX_STREAMS_PER_ADDRESS": "8",
				"PIPEPROC_MAX_STREAMS_PER_KEY": "9", "PIPEPROC_MAX_CONNECTIONS": "10", "PIPEPROC_RATE_LIMIT": "11",
				"PIPEPROC_TRUSTED_PROXY": "10.0.0.0/8, unix",
				"PIPEPROC_NAMESPACE":     "n", "PIPEPROC_DATA_DIR": "d", "PIPEPROC_MEMORY": "true",
				"PIPEPROC_POSTGRES_BIN": "b", "PIPEPROC_UNSAFE_DURABILITY": "true", "PIPEPROC_WORKERS": "2",
				"PIPEPROC_WORKER_CONCURRENCY": "3", "PIPEPROC_WORKER_RESTART_AFTER": "4",
				"PIPEPROC_INLINE_PROCESSORS": "true",
				"PIPEPROC_WEBHOOK_ALLOW":     "10.0.0.0/8, ::1", "PIPEPROC_GC": "true",
				"PIPEPROC_GC_MIN_PRUNE_TIME": "5", "PIPEPROC_GC_INTERVAL": "6", "PIPEPROC_LOG_LEVEL": "warn",
				"PIPEPROC_LOG_FORMAT": "json", "PIPEPROC_PPROF_LISTEN": "127.0.0.1:0", "PIPEPROC_VERSION": "true"},
			want: Config{Listen: []string{"127.0.0.1:1", "unix:/s"}, TLSCert: "c", TLSKey: "k", TLSClientCA: "a", Insecure: true,
				SocketMode: 0o660, APIKeysFile: "f", TicketSecretFile: "s", AllowedHosts: []string{"a.example", "b"},
				CORSOrigins: []string{"https://app.example"}, AllowShutdown: true, StreamMaxAge: time.Minute, MaxStreams: 7, MaxStreamsPerAddress: 8, MaxStreamsPerKey: 9,
				MaxConnections: 10, RateLimit: 11, TrustedProxies: []string{"10.0.0.0/8", "unix"}, Namespace: "n",
				DataDir: "d", Memory: true, PostgresBin: "b",
				UnsafeDurability: true, Workers: 2, WorkerConcurrency: 3, WorkerRestartAfter: 4,
				InlineProcessors: true, WebhookAllow: []string{"10.0.0.0/8", "::1"}, GC: true, GCMinPruneTime: 5,
				GCInterval: 6, LogLevel: slog.LevelWarn, LogFormat: "json", PprofListen: "127.0.0.1:0"},
		},
		"flags win": {
			args: []string{"--listen=127.0.0.1:2", "--gc=false", "--workers=7"},
			env:  map[string]string{"PIPEPROC_LISTEN": "127.0.0.1:1", "PIPEPROC_GC": "true", "PIPEPROC_WORKERS": "8"},
			want: with(func(c *Config) { c.Listen = []string{"127.0.0.1:2"}; c.Workers = 7 }),
		},
		"empty variables are absent": {
			env:  map[string]string{"PIPEPROC_LISTEN": "", "PIPEPROC_GC": "", "DATABASE_URL": ""},
			want: DefaultConfig(),
		},
		"the common variable": {
			env:  map[string]string{"DATABASE_URL": "postgres:///common"},
			want: with(func(c *Config) { c.DatabaseURL = "postgres:///common" }),
		},
		"our variable before the common one": {
			env:  map[string]string{"DATABASE_URL": "postgres:///common", "PIPEPROC_DATABASE_URL": "postgres:///own"},
			want: with(func(c *Config) { c.DatabaseURL = "postgres:///own" }),
		},
		"a secret in a file": {
			env:  map[string]string{"DATABASE_URL": "postgres:///common", "PIPEPROC_DATABASE_URL_FILE": file},
			want: with(func(c *Config) { c.DatabaseURL = "postgres://from-file/db" }),
		},
		"another secret in a file": {
			args: []string{"--database-url=postgres:///x"},
			env:  map[string]string{"DATABASE_URL": "postgres:///common", "PIPEPROC_DATABASE_DIRECT_URL_FILE": file},
			want: with(func(c *Config) {
				c.DatabaseURL, c.DatabaseDirectURL = "postgres:///x", "postgres://from-file/db"
			}),
		},
		"a flag before the file": {
			args: []string{"--database-url="},
			env:  map[string]string{"PIPEPROC_DATABASE_URL_FILE": "/does/not/exist", "DATABASE_URL": "postgres:///common"},
			want: DefaultConfig(),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseConfig(tt.args, lookup(tt.env))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		env  map[string]string
		want string // part of the error
	}{
		"unknown flag":         {args: []string{"--nope"}, want: "-nope"},
		"argument":             {args: []string{"serve"}, want: `"serve"`},
		"not a number":         {args: []string{"--workers=many"}, want: "workers"},
		"negative workers":     {args: []string{"--workers=-1"}, want: "--workers"},
		"no concurrency":       {args: []string{"--worker-concurrency=0"}, want: "--worker-concurrency"},
		"negative restart":     {args: []string{"--worker-restart-after=-1"}, want: "--worker-restart-after"},
		"namespace":            {args: []string{"--namespace=a b"}, want: "--namespace"},
		"empty namespace":      {args: []string{"--namespace="}, want: "--namespace"},
		"prune time":           {args: []string{"--gc-min-prune-time=-1"}, want: "--gc-min-prune-time"},
		"interval":             {args: []string{"--gc-interval=0"}, want: "--gc-interval"},
		"webhook range":        {args: []string{"--webhook-allow=::1", "--webhook-allow=10.0.0.0/33"}, want: `--webhook-allow "10.0.0.0/33"`},
		"variable's range":     {env: map[string]string{"PIPEPROC_WEBHOOK_ALLOW": "10.0.0.0/8,x"}, want: `--webhook-allow "x"`},
		"stream age":           {args: []string{"--stream-max-age=0"}, want: "--stream-max-age"},
		"streams":              {args: []string{"--max-streams=-1"}, want: "--max-streams "},
		"streams per address":  {args: []string{"--max-streams-per-address=-1"}, want: "--max-streams-per-address"},
		"log level":            {args: []string{"--log-level=loud"}, want: "log-level"},
		"log format":           {args: []string{"--log-format=xml"}, want: "--log-format"},
		"no keys file":         {args: []string{"--api-keys-file="}, want: "api-keys-file"},
		"no authorities":       {args: []string{"--tls-cert=c", "--tls-key=k", "--tls-client-ca", ""}, want: "tls-client-ca"},
		"empty listen":         {args: []string{"--listen="}, want: "listen"},
		"memory and url":       {args: []string{"--memory", "--database-url=postgres:///x"}, want: "--memory"},
		"memory and variable":  {args: []string{"--memory"}, env: map[string]string{"DATABASE_URL": "x"}, want: "--memory"},
		"direct url alone":     {args: []string{"--database-direct-url=postgres:///x"}, want: "--database-direct-url"},
		"no data":              {args: []string{"--data-dir="}, want: "--data-dir"},
		"cert without key":     {args: []string{"--tls-cert=c"}, want: "--tls-key"},
		"ca without cert":      {args: []string{"--tls-client-ca=c"}, want: "--tls-client-ca"},
		"variable's number":    {env: map[string]string{"PIPEPROC_WORKERS": "x"}, want: "PIPEPROC_WORKERS"},
		"variable's switch":    {env: map[string]string{"PIPEPROC_GC": "maybe"}, want: "PIPEPROC_GC"},
		"variable's hole":      {env: map[string]string{"PIPEPROC_LISTEN": "127.0.0.1:1,,127.0.0.1:2"}, want: "PIPEPROC_LISTEN"},
		"secret's file absent": {env: map[string]string{"PIPEPROC_DATABASE_URL_FILE": "/does/not/exist"}, want: "_FILE"},
		"secret's file empty":  {env: map[string]string{"PIPEPROC_DATABASE_URL_FILE": empty}, want: "is empty"},
		"secret twice": {env: map[string]string{"PIPEPROC_DATABASE_URL_FILE": "/f", "PIPEPROC_DATABASE_URL": "x"},
			want: "both set"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig(tt.args, lookup(tt.env))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestParseConfigTexts(t *testing.T) {
	if _, err := ParseConfig([]string{"--help"}, lookup(nil)); !errors.Is(err, ErrHelp) {
		t.Errorf("--help: %v", err)
	}
	if _, err := ParseConfig([]string{"--version"}, lookup(nil)); !errors.Is(err, ErrVersion) {
		t.Errorf("--version: %v", err)
	}
}

// TestHelp holds that no flag is missing from the text, and no line too wide for a terminal.
func TestHelp(t *testing.T) {
	help := Help()
	c := DefaultConfig()
	options(&c).set.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(help, "\n  --"+f.Name) {
			t.Errorf("--%s is not told of", f.Name)
		}
	})
	for line := range strings.Lines(help) {
		if len(line) > 120 {
			t.Errorf("too wide: %s", line)
		}
	}
}

package service

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// ErrHelp and ErrVersion mean that the flags asked for a text instead of a server.
var (
	ErrHelp    = flag.ErrHelp
	ErrVersion = errors.New("version asked for")
)

// ParseConfig reads the flags (without the program's name) and the environment, where flags win. env looks up a
// variable, as os.LookupEnv does; an empty variable counts as absent. Errors: ErrHelp, ErrVersion, else one line that
// tells what is wrong with which flag or variable.
func ParseConfig(args []string, env func(string) (string, bool)) (Config, error) {
	c := DefaultConfig()
	o := options(&c)
	version := o.set.Bool("version", false, "")
	if err := o.set.Parse(args); err != nil {
		return c, err
	}
	if *version {
		return c, ErrVersion
	}
	if rest := o.set.Args(); len(rest) > 0 {
		return c, fmt.Errorf("unexpected argument %q; see --help", rest[0])
	}
	if err := o.environment(env); err != nil {
		return c, err
	}
	return c, c.validate()
}

// Help is the text of --help.
func Help() string {
	c := DefaultConfig()
	var b strings.Builder
	b.WriteString(`PipeProc: a structured commit log with topics and procs over HTTP, on PostgreSQL.

Usage:
  server [flags]                   run the server
  server keygen --name N --role R  make an API key
  server healthcheck [--url URL]   exit 0 when a running server is ready
  server backup FILE [flags]       save the namespace to FILE, also while servers run
  server restore FILE [flags]      put a backup in the namespace's place; --replace: also where that holds data
  server postgres-check [flags]    exit 0 when there is a PostgreSQL to run on, and tell which
  server version                   tell the version

Each flag is also a variable of the environment: --gc-interval is PIPEPROC_GC_INTERVAL. Flags win. Lists are
comma-separated there, switches are true or false.
`)
	for _, g := range options(&c).groups {
		b.WriteString("\n" + g.title + ":\n")
		for _, l := range g.lines {
			fmt.Fprintf(&b, "  %-32s %s\n", l.name, strings.ReplaceAll(l.text, "\n", "\n"+strings.Repeat(" ", 35)))
		}
	}
	return b.String()
}

// optionSet is the flags with their help, in groups.
type optionSet struct {
	set    *flag.FlagSet
	groups []group
}

type group struct {
	title string
	lines []line
}

type line struct{ name, text string }

// options binds every flag to c, whose present values are the defaults.
func options(c *Config) *optionSet {
	o := &optionSet{set: flag.NewFlagSet("server", flag.ContinueOnError)}
	o.set.SetOutput(io.Discard)

	o.group("Listening")
	o.value(&listValue{list: &c.Listen}, "listen", "ADDRESS", "host:port, where port 0 takes a free one, or unix:/path.sock,\n"+
		"see --socket-mode; repeatable (default 127.0.0.1:8080)")
	o.file(&c.TLSCert, "tls-cert", "certificate chain (PEM): the TCP listeners speak TLS. These three\nfiles, and that of the API keys, are read again when they change")
	o.file(&c.TLSKey, "tls-key", "its private key (PEM)")
	o.file(&c.TLSClientCA, "tls-client-ca", "authorities (PEM): clients must show a certificate of theirs")
	o.value(modeValue{&c.SocketMode}, "socket-mode", "MODE", "mode of Unix sockets, octal (default 0600: their owner's alone)")
	o.file(&c.APIKeysFile, "api-keys-file", "clients need an API key of this file, see server keygen --help")
	o.file(&c.TicketSecretFile, "ticket-secret-file", "a secret, the same on all servers that are to take each other's\nstream tickets (default: one of each server's own)")
	o.value(&listValue{list: &c.AllowedHosts}, "allowed-host", "NAME", "a name that clients may call this server by, besides those of\n"+
		"loopback; repeatable")
	o.value(&listValue{list: &c.CORSOrigins}, "cors-origin", "ORIGIN", "pages of this origin, as https://app.example, may use the server;\n"+
		"repeatable")
	o.bool(&c.Insecure, "insecure", "listen on addresses that other machines reach, open to all of them")
	o.bool(&c.AllowShutdown, "allow-shutdown", "allow POST /v1/shutdown")
	o.duration(&c.StreamMaxAge, "stream-max-age", "end a stream after this time; its client connects anew\n(default 10m)")
	o.int(&c.MaxStreams, "max-streams", "the most streams that are open at a time (default 20000; 0 no limit)")
	o.int(&c.MaxStreamsPerAddress, "max-streams-per-address", "the same, from one address of clients (default 20000; 0 no limit)")
	o.int(&c.MaxStreamsPerKey, "max-streams-per-key", "the same, with one API key (default 20000; 0 no limit)")
	o.int(&c.MaxConnections, "max-connections", "the most TCP connections of clients that are open at a time\n(default 25000; 0: as many as the process may have)")
	o.int(&c.RateLimit, "rate-limit", "requests a second that one address, and one API key, may make\n(default 0, no limit)")
	o.value(&listValue{list: &c.TrustedProxies}, "trusted-proxy", "CIDR", "believe the X-Forwarded-For of proxies at these addresses;\n"+
		"unix: of whoever comes through a Unix socket; repeatable")

	o.group("Database")
	o.string(&c.DatabaseURL, "database-url", "URL", "a PostgreSQL (14 or newer) of yours; it wins over --data-dir. Also as\n"+
		"DATABASE_URL, or in the file that PIPEPROC_DATABASE_URL_FILE names")
	o.string(&c.DatabaseDirectURL, "database-direct-url", "URL", "the same PostgreSQL itself, where --database-url leads through\n"+
		"PgBouncer in transaction mode. Also in PIPEPROC_DATABASE_DIRECT_URL_FILE")
	o.string(&c.DataDir, "data-dir", "FOLDER", "data of a private PostgreSQL (default ./pipeproc_data)")
	o.bool(&c.Memory, "memory", "a private throw-away PostgreSQL, gone at exit")
	o.string(&c.PostgresBin, "postgres-bin", "FOLDER", "binaries for a private PostgreSQL (default: searched for)")
	o.string(&c.Namespace, "namespace", "NAME", "the schema that everything is kept in (default default)")
	o.bool(&c.UnsafeDurability, "unsafe-durability", "accept a database that may lose what it confirmed")

	o.group("systemProcs")
	o.int(&c.Workers, "workers", "how many workers run systemProcs (default 1; 0 none)")
	o.int(&c.WorkerConcurrency, "worker-concurrency", "executions at a time of each worker (default 64)")
	o.int(&c.WorkerRestartAfter, "worker-restart-after", "a worker starts anew after so many executions (default 0, never)")
	o.bool(&c.InlineProcessors, "inline-processors", "run JavaScript functions as processors, inside this process and without\n"+
		"a bound on their memory: for trusted authors")
	o.value(&listValue{list: &c.WebhookAllow}, "webhook-allow", "CIDR", "webhooks may be called at these addresses besides public ones;\n"+
		"repeatable. Loopback is open while --listen names nothing else")

	o.group("Garbage collection")
	o.bool(&c.GC, "gc", "collect logs that every proc has acked")
	o.millis(&c.GCMinPruneTime, "gc-min-prune-time", "never collect younger logs (default 30000)")
	o.millis(&c.GCInterval, "gc-interval", "time between runs (default 30000)")

	o.group("Log, on stderr")
	o.value(levelValue{&c.LogLevel}, "log-level", "LEVEL", "debug, info, warn or error (default info)")
	o.string(&c.LogFormat, "log-format", "FORMAT", "text or json (default text)")

	o.group("Other")
	o.string(&c.PprofListen, "pprof-listen", "ADDRESS", "serve profiles of this process (net/http/pprof) at host:port, a\n"+
		"loopback address (default none)")
	o.line("--version", "tell the version and exit")
	o.line("--help", "show this text and exit")
	return o
}

func (o *optionSet) group(title string) { o.groups = append(o.groups, group{title: title}) }

func (o *optionSet) line(name, text string) {
	g := &o.groups[len(o.groups)-1]
	g.lines = append(g.lines, line{name, text})
}

func (o *optionSet) value(v flag.Value, name, placeholder, text string) {
	o.set.Var(v, name, "")
	o.line("--"+name+" "+placeholder, text)
}

func (o *optionSet) string(p *string, name, placeholder, text string) {
	o.set.StringVar(p, name, *p, "")
	o.line("--"+name+" "+placeholder, text)
}

// file is the name of a file, which may be left out, but not be empty: a variable of a script that is not set must not leave
// the server without its keys.
func (o *optionSet) file(p *string, name, text string) { o.value(fileValue{p}, name, "FILE", text) }

func (o *optionSet) bool(p *bool, name, text string) {
	o.set.BoolVar(p, name, *p, "")
	o.line("--"+name, text)
}

func (o *optionSet) int(p *int, name, text string) {
	o.set.IntVar(p, name, *p, "")
	o.line("--"+name+" N", text)
}

func (o *optionSet) millis(p *int64, name, text string) {
	o.set.Int64Var(p, name, *p, "")
	o.line("--"+name+" MS", text)
}

func (o *optionSet) duration(p *time.Duration, name, text string) {
	o.set.DurationVar(p, name, *p, "")
	o.line("--"+name+" DURATION", text)
}

// environment gives every flag that the command line left out the value of its variable.
func (o *optionSet) environment(env func(string) (string, bool)) error {
	given := map[string]bool{}
	o.set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var failed error
	o.set.VisitAll(func(f *flag.Flag) {
		if given[f.Name] || failed != nil || f.Name == "version" {
			return
		}
		value, source, err := variable(f.Name, env)
		if err != nil {
			failed = err
			return
		}
		if source == "" {
			return
		}
		values := []string{value}
		if _, list := f.Value.(*listValue); list {
			values = strings.Split(value, ",")
		}
		for _, v := range values {
			if err := o.set.Set(f.Name, strings.TrimSpace(v)); err != nil {
				// The value may be a secret; what is wrong with it is told without it.
				failed = fmt.Errorf("invalid value in %s: %w", source, err)
				return
			}
		}
	})
	return failed
}

// secrets are the flags whose values may also stand in a file, each with a variable that other programs have as well, or "".
var secrets = map[string]string{"database-url": "DATABASE_URL", "database-direct-url": ""}

// variable looks a flag's value up and tells where it was found; source is "" when it is nowhere.
func variable(name string, env func(string) (string, bool)) (value, source string, err error) {
	source = "PIPEPROC_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	value, _ = env(source)
	if shared, ok := secrets[name]; ok {
		file, _ := env(source + "_FILE")
		switch {
		case file != "" && value != "":
			return "", "", fmt.Errorf("%s and %[1]s_FILE are both set; one of them is to go", source)
		case file != "":
			text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
			if err != nil {
				return "", "", fmt.Errorf("%s_FILE: %w", source, err)
			}
			source += "_FILE"
			if value = strings.TrimSpace(string(text)); value == "" {
				return "", "", fmt.Errorf("%s: %s is empty", source, file)
			}
		case value == "" && shared != "":
			source = shared
			value, _ = env(source)
		}
	}
	if value == "" {
		return "", "", nil
	}
	return value, source, nil
}

// listValue is a repeatable flag; the first value given replaces the defaults.
type listValue struct {
	list  *[]string
	given bool
}

func (v *listValue) String() string { return "" }

func (v *listValue) Set(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if !v.given {
		*v.list, v.given = nil, true
	}
	*v.list = append(*v.list, s)
	return nil
}

type fileValue struct{ name *string }

func (v fileValue) String() string { return "" }

func (v fileValue) Set(s string) error {
	if s == "" {
		return errors.New("no file given")
	}
	*v.name = s
	return nil
}

type levelValue struct{ level *slog.Level }

func (v levelValue) String() string { return "" }

func (v levelValue) Set(s string) error {
	switch strings.ToLower(s) {
	case "debug", "info", "warn", "error":
		return v.level.UnmarshalText([]byte(s))
	}
	return errors.New("it is debug, info, warn or error, not " + strconv.Quote(s))
}

type modeValue struct{ mode *fs.FileMode }

func (v modeValue) String() string { return "" }

func (v modeValue) Set(s string) error {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
		return errors.New("it is octal, and its owner's to read and write, as 0600 or 0660; not " + strconv.Quote(s))
	}
	*v.mode = fs.FileMode(mode)
	return nil
}

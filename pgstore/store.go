// Package pgstore keeps topics, logs and procs in PostgreSQL.
//
// It holds all SQL. The rules are package api's: a method here loads rows under lock, applies a rule, writes the rows.
// Commits and claims of concurrent requests share transactions (lane.go); everything else runs in one of its own.
//
// Lock order, for every transaction: idempotency keys sorted, proc rows by id, topic rows by id, nothing else.
package pgstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/migrations"
)

// Config tells Open where the data are.
type Config struct {
	URL       string // of the database
	Namespace string // its schema; default "default"

	// DirectURL is of the same database, for connections that need a session of their own: where URL leads through a pooler
	// that has none, as PgBouncer in transaction mode. Default: URL.
	DirectURL string

	// UnsafeDurability accepts a database that may lose commits when its machine fails.
	UnsafeDurability bool

	Logger  *slog.Logger          // default: slog.Default()
	Metrics prometheus.Registerer // default: none
	Tracer  trace.Tracer          // of batches; default: none

	// PollInterval is how often the store looks at what is waited for, should a wake-up be lost. Default 2 s.
	PollInterval time.Duration
	// Connections is the most that the pool for reads and rare writes opens. Default 16. Lanes and wake-ups have their own.
	Connections int32

	steps       fs.FS         // of the schema; nil: migrations.Files
	migrateTime time.Duration // that a step may wait for its locks; 0: the default
}

// Store keeps one namespace. It is safe for concurrent use. Writes need Run to be running.
type Store struct {
	cfg    Config
	schema string // quoted
	// namespace names it among all there are, those of other databases included: a UUID's digits, kept with it
	namespace string
	restores  int64  // how often the namespace was restored
	server    string // a UUID, new for each Store
	log       *slog.Logger
	pool      *pool
	hub       *hub
	lanes     *lanes
	meters    *meters
	traces    traces

	batchTurns, notifyTurns, listenTurns, pollTurns api.Turns

	patience patience

	mu  sync.RWMutex
	sql map[string]string // statement as written → with the schema's name
}

var _ interface {
	api.Logs
	api.Topics
	api.Tailer
	api.Procs
	api.SystemProcs
	api.Jobs
	api.LiveProcs
	api.Collector
	api.Watcher
	api.Health
} = (*Store)(nil)

// Open connects to the database, brings the namespace's schema up to date, and answers a Store whose Run is to be
// started. It fails when the database is older than PostgreSQL 14, not durable (unless Config.UnsafeDurability), reached
// through a pooler without sessions, or too new for this program.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "default"
	}
	if err := api.CheckNamespace(cfg.Namespace); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 2 * time.Second
	}
	if cfg.Connections == 0 {
		cfg.Connections = 16
	}
	s := &Store{cfg: cfg, schema: pgx.Identifier{schemaName(cfg.Namespace)}.Sanitize(), server: newUUID(),
		log: cfg.Logger, sql: map[string]string{}, meters: newMeters(cfg.Metrics), patience: defaultPatience}
	s.hub = newHub(s)
	s.lanes = newLanes(s)
	s.traces = traces{tracer: cfg.Tracer, hub: s.hub, commits: map[string]trace.SpanContext{}}
	s.batchTurns.Name, s.batchTurns.Patience = "batches", batchPatience
	s.notifyTurns.Name, s.notifyTurns.Patience = "notify", wakePatience
	s.listenTurns.Name, s.listenTurns.Patience = "listen", wakePatience
	s.pollTurns.Name, s.pollTurns.Every, s.pollTurns.Patience = "poll", cfg.PollInterval, wakePatience

	if s.cfg.steps == nil {
		s.cfg.steps = migrations.Files
	}
	s.cfg.migrateTime = cmp.Or(s.cfg.migrateTime, migrateTime)
	conn, err := s.connect(ctx, "")
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if err := s.checkSession(ctx, conn); err != nil {
		return nil, err
	}
	if err := s.checkServer(ctx, conn); err != nil {
		return nil, err
	}
	if err := s.migrate(ctx, conn); err != nil {
		return nil, fmt.Errorf("migrate namespace %q: %w", cfg.Namespace, err)
	}
	if err := s.readNamespace(ctx, conn); err != nil {
		return nil, err
	}
	if s.pool, err = s.openPool(ctx); err != nil {
		return nil, err
	}
	if err := s.checkSameDatabase(ctx, conn); err != nil {
		s.pool.Close()
		return nil, err
	}
	if err := s.loadJobTopics(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(&gauges{store: s})
	}
	return s, nil
}

// schemaName is the namespace's schema. The prefix keeps namespaces apart from public, pg_… and what else there is.
func schemaName(namespace string) string { return "pipeproc_" + namespace }

// Run turns the store's loops: lanes, wake-ups. It blocks until ctx is done, then answers what was accepted before it
// returns. Writes that come later are refused.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.lanes.run(ctx) })
	g.Go(func() error { return s.hub.listen(ctx) })
	g.Go(func() error { return s.hub.notify(ctx) })
	g.Go(func() error { return s.hub.poll(ctx) })
	return g.Wait()
}

// Close closes the connections. Call it after Run has returned.
func (s *Store) Close() { s.pool.Close() }

// connect opens a connection outside the pool, whose session is its own, and which PostgreSQL shows with its purpose.
func (s *Store) connect(ctx context.Context, purpose string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.cfg.direct())
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = applicationName(s.cfg.Namespace, purpose)
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	return pgx.ConnectConfig(ctx, config)
}

// q puts the schema's name into a statement, which writes it "ns.".
func (s *Store) q(sql string) string {
	s.mu.RLock()
	text, ok := s.sql[sql]
	s.mu.RUnlock()
	if ok {
		return text
	}
	text = strings.ReplaceAll(sql, "ns.", s.schema+".")
	s.mu.Lock()
	s.sql[sql] = text
	s.mu.Unlock()
	return text
}

// querier is what reads need: the pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// beginner is what begins transactions: the pool or a lane's connection.
type beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// readCommitted runs f in a transaction of the isolation that all writes are made for. A role or a database may have a
// stricter one as its default, with which PostgreSQL refuses statements that meet those of others.
func readCommitted(ctx context.Context, db beginner, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, f)
}

// exec runs a statement in a transaction of its own.
func exec(ctx context.Context, db beginner, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = readCommitted(ctx, db, func(tx pgx.Tx) error {
		tag, err = tx.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// readTx runs f in a transaction that sees the database as of one instant; once more where its connection was cut, since
// one from the pool may have been so for a while.
func (s *Store) readTx(ctx context.Context, f func(tx pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, options, f)
	if disconnected(err) && ctx.Err() == nil {
		s.pool.Reset()
		err = pgx.BeginTxFunc(ctx, s.pool, options, f)
	}
	return mapError(err)
}

// writeTx runs f in a transaction, again when PostgreSQL asks for it. f may answer errAgain to be run anew, and
// missingTopicsError to have them reserved before. A client that goes away does not cancel it.
func (s *Store) writeTx(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for attempt := 1; ; attempt++ {
		done := false // but for its COMMIT
		err := readCommitted(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '5s'"); err != nil {
				return err
			}
			err := f(ctx, tx)
			done = err == nil
			return err
		})
		var missing missingTopicsError
		switch {
		case attempt >= 10:
			return mapError(err)
		case errors.As(err, &missing): // only now, when the transaction has given its connection back
			if err := s.reserveTopics(ctx, s.pool, missing); err != nil {
				return mapError(err)
			}
		case !done && errors.Is(err, context.DeadlineExceeded): // several locks, each waited for
			e := api.Errorf(api.CodeOverloaded, "the database did not come to it in time")
			e.RetryAfter = time.Second
			return &causedError{e, err}
		case !errors.Is(err, errAgain) && !retryable(err):
			return mapError(err)
		}
	}
}

// errAgain asks writeTx for another try: what the transaction relied on has changed.
var errAgain = errors.New("again")

// missingTopicsError names the topics that have no row yet.
type missingTopicsError []string

func (e missingTopicsError) Error() string { return "topics without a row: " + strings.Join(e, ", ") }

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newToken names a claim: 128 random bits, so that none is used twice.
func newToken() string { return rand.Text() }

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pipeproc/pgstore/embedded"
)

// How long a database that does not answer is waited for: it may be starting together with this server.
const (
	reachTime    = 60 * time.Second
	reachAttempt = 5 * time.Second
	reachPause   = time.Second
)

// stopTime is how long the private PostgreSQL may take to end in order before it is hurried.
const stopTime = 20 * time.Second

// database is the PostgreSQL that the store uses: one of the operator's, or a private one.
type database struct {
	url     string
	direct  string            // "": as url
	private *embedded.Cluster // nil: not ours to start and stop
}

// openDatabase starts the private PostgreSQL, or waits for the operator's one to answer.
func openDatabase(ctx context.Context, c *Config, log *slog.Logger) (*database, error) {
	if c.DatabaseURL != "" {
		if c.DatabaseDirectURL != "" {
			if err := reach(ctx, c.DatabaseDirectURL, log); err != nil {
				return nil, fmt.Errorf("--database-direct-url: %w", err)
			}
		}
		if err := reach(ctx, c.DatabaseURL, log); err != nil {
			return nil, fmt.Errorf("--database-url: %w", err)
		}
		return &database{url: c.DatabaseURL, direct: c.DatabaseDirectURL}, nil
	}
	cluster, err := embedded.Start(ctx, embedded.Config{Dir: c.DataDir, Memory: c.Memory, BinDir: c.PostgresBin, Logger: log})
	if err != nil {
		return nil, err
	}
	return &database{url: cluster.URL(), private: cluster}, nil
}

// ready answers nil unless the private PostgreSQL is being restarted.
func (d *database) ready() error {
	if d.private != nil && !d.private.Ready() {
		return errors.New("PostgreSQL is being restarted")
	}
	return nil
}

// stop ends the private PostgreSQL. It may be called at any time after openDatabase.
func (d *database) stop() error {
	if d.private == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	return d.private.Stop(ctx)
}

// reach returns when the database accepts a connection. A database that answers with a refusal (a wrong password, an
// unknown database) is not asked again.
func reach(ctx context.Context, url string, log *slog.Logger) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return checkDatabaseURL(url)
	}
	config.ConnectTimeout = reachAttempt
	for end := time.Now().Add(reachTime); ; {
		conn, err := pgx.ConnectConfig(ctx, config)
		switch {
		case err == nil:
			return conn.Close(ctx)
		case ctx.Err() != nil:
			return ctx.Err()
		case !starting(err):
			return err
		case time.Now().After(end):
			return fmt.Errorf("the database did not answer in %v: %w", reachTime, err)
		}
		log.Warn("the database does not answer yet", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reachPause):
		}
	}
}

// starting reports whether a later attempt to connect may succeed: nothing answered, or a PostgreSQL that starts, stops
// or is full. PgBouncer says "protocol violation" of all that it has to tell, that PostgreSQL does not answer it included.
func starting(err error) bool {
	var refusal *pgconn.PgError
	if !errors.As(err, &refusal) {
		return true
	}
	switch refusal.Code {
	case "57P01", "57P03", "53300", "08P01":
		return true
	}
	return false
}

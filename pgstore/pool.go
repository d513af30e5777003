package pgstore

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// mostWaiting is how many may wait for a connection of the pool, or for the first answer on it.
const mostWaiting = 8_192

// pool is the connections for reads and rare writes. As a lane's queue is, so is the line of those who wait for one bounded:
// whoever comes too late is refused with CodeOverloaded.
type pool struct {
	*pgxpool.Pool
	waiting atomic.Int64
}

func (p *pool) enter() error {
	if p.waiting.Add(1) > mostWaiting {
		p.leave()
		return overloaded("more requests wait for the database than the server can take")
	}
	return nil
}

func (p *pool) leave() { p.waiting.Add(-1) }

func (p *pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	return p.Pool.Query(ctx, sql, args...) //nolint:sqlclosecheck // the caller closes them
}

func (p *pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := p.enter(); err != nil {
		return refusedRow{err}
	}
	defer p.leave()
	return p.Pool.QueryRow(ctx, sql, args...)
}

func (p *pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	return p.Pool.BeginTx(ctx, options)
}

// refusedRow is a row that was not asked for.
type refusedRow struct{ err error }

func (r refusedRow) Scan(...any) error { return r.err }

package pgstore

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pipeproc/api"
)

// SQLSTATEs that mean something here.
const (
	stateNotNull         = "23502"
	stateLockTimeout     = "55P03"
	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateTooManyConns    = "53300"
	stateReadOnly        = "25006" // the server has become a standby
	stateClassConnection = "08"
	stateClassOperator   = "57" // shut down, starting up, cancelled
	stateClassResources  = "53" // disk full, memory, connections
)

// sqlState is PostgreSQL's code for err, "" when PostgreSQL did not answer.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// retryable reports whether the same transaction may succeed when it is run again at once.
func retryable(err error) bool {
	state := sqlState(err)
	return state == stateSerialization || state == stateDeadlock
}

// disconnected reports whether err says that the connection is gone or the server cannot be used now. What became of a
// COMMIT is unknown then: a server that panics may have it on its disk.
func disconnected(err error) bool {
	if err == nil {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		var refusal *api.Error
		return !errors.As(err, &refusal)
	}
	switch {
	case pg.SeverityUnlocalized == "FATAL", pg.SeverityUnlocalized == "PANIC":
		return true
	case strings.HasPrefix(pg.Code, stateClassConnection), strings.HasPrefix(pg.Code, stateClassOperator):
		return true
	}
	return pg.Code == stateTooManyConns || pg.Code == stateReadOnly
}

// mapError turns what PostgreSQL and the network answer into what a caller is told. Refusals and cancellation pass;
// whatever is unknown stays, and is the caller's CodeInternal.
func mapError(err error) error {
	var refusal *api.Error
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil, errors.As(err, &refusal), errors.Is(err, context.Canceled):
		return err
	case sqlState(err) == stateLockTimeout:
		return overloaded("the rows are locked by another client of the database")
	case retryable(err): // tried again, in vain
		return overloaded("other clients of the database are in the way")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &connect), errors.As(err, &network), pgconn.Timeout(err),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return unavailable(err)
	case sqlState(err) != "" && disconnected(err):
		return unavailable(err)
	case strings.HasPrefix(sqlState(err), stateClassResources):
		return noRoom(err)
	case sqlState(err) == "" && pgconn.SafeToRetry(err):
		return unavailable(err)
	}
	return err
}

// causedError is a refusal to the caller, with its cause for the log.
type causedError struct {
	refusal *api.Error
	cause   error
}

func (e *causedError) Unwrap() []error { return []error{e.refusal, e.cause} }
func (e *causedError) Error() string   { return e.refusal.Error() + ": " + e.cause.Error() }

func unavailable(cause error) error {
	e := api.Errorf(api.CodeUnavailable, "the database cannot be reached; whether a write was done is unknown")
	e.RetryAfter = time.Second
	return &causedError{e, cause}
}

func noRoom(cause error) error {
	e := api.Errorf(api.CodeOverloaded, "the database has no room left on its disk, or no memory")
	e.RetryAfter = time.Second
	return &causedError{e, cause}
}

func overloaded(format string, args ...any) error {
	e := api.Errorf(api.CodeOverloaded, format, args...)
	e.RetryAfter = time.Second
	return e
}

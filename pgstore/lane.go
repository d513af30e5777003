package pgstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"pipeproc/api"
	"pipeproc/api/fault"
)

// Bounds of a batch and of a lane's queue.
const (
	batchOps   = 1_000
	batchBytes = 24 << 20
	queueOps   = 8_192
	queueBytes = 96 << 20
)

// Times of a lane.
const (
	lockTimeout     = 250 * time.Millisecond // of the main lane, for one row
	lockTimeoutSide = 20 * time.Millisecond  // of a side lane, so that it holds no other row for long
	sideRetry       = 50 * time.Millisecond  // between two tries of a side lane
	lockPhase       = 5 * time.Second        // for all that comes before the writes
	reconnectTries  = 3
	sideLanes       = 16
)

// patience is how long a lane waits for what may never come. Tests have less of it.
type patience struct {
	lock    time.Duration // of the main lane, for one row
	side    time.Duration // for a row that an outsider holds, before a side lane's requests are refused
	commit  time.Duration // for an answer to COMMIT
	resolve time.Duration // to find out what became of a COMMIT
}

var defaultPatience = patience{lock: lockTimeout, side: 30 * time.Second, commit: 5 * time.Second, resolve: 5 * time.Second}

// An op is what one request wants of a batch.
type op interface {
	// needs names the rows that are to be locked.
	needs(n *needs)
	// size is the number of bytes that it adds to a batch.
	size() int
	// apply decides on the locked rows, and changes them in memory. Its error is the request's answer; it has changed
	// nothing then. It may be called again, on other rows: nothing of an earlier call may remain.
	apply(ctx context.Context, b *batch) error
}

// request is an op on its way through a lane.
type request struct {
	op   op
	ctx  context.Context
	err  error
	done chan struct{} // closed when err is final
}

// refused reports whether r was answered already that something is in its way.
func (r *request) refused() bool {
	select {
	case <-r.done:
		return api.CodeOf(r.err) == api.CodeOverloaded
	default:
		return false
	}
}

func (r *request) finish(err error) {
	r.err = err
	close(r.done)
}

// submit runs op in the next batch of its lane and answers after COMMIT. A caller whose ctx is done before the batch
// starts is not served; later, the batch is not cancelled and the outcome is answered.
func (s *Store) submit(ctx context.Context, o op) error {
	r := &request{op: o, ctx: ctx, done: make(chan struct{})}
	if err := s.lanes.push(r); err != nil {
		return err
	}
	<-r.done
	return r.err
}

// lanes are the main lane, and a side lane for every topic and proc whose row an outsider holds: its requests wait
// there, the others go on.
type lanes struct {
	store *Store
	main  *lane

	mu      sync.Mutex
	closed  bool
	side    map[string]*lane // by the blocked row
	numbers [sideLanes + 1]bool
	group   *errgroup.Group
	context context.Context
}

func newLanes(s *Store) *lanes {
	l := &lanes{store: s, side: map[string]*lane{}}
	l.main = newLane(l, 0, "")
	return l
}

// run serves the lanes until ctx is done and all that was accepted is answered.
func (l *lanes) run(ctx context.Context) error {
	g := new(errgroup.Group)
	l.mu.Lock()
	l.group, l.context = g, context.WithoutCancel(ctx)
	l.mu.Unlock()
	g.Go(func() error { l.main.serve(l.context); return nil })
	<-ctx.Done()
	l.mu.Lock()
	l.closed = true
	for _, side := range l.side {
		side.wake()
	}
	l.mu.Unlock()
	l.main.wake()
	return g.Wait()
}

// push queues r in the lane of the rows that it needs.
func (l *lanes) push(r *request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		e := api.Errorf(api.CodeUnavailable, "the server is shutting down")
		e.RetryAfter = time.Second
		return e
	}
	if len(l.side) > 0 {
		n := newNeeds()
		r.op.needs(n)
		for _, row := range n.rows() {
			if side := l.side[row]; side != nil {
				return side.push(r)
			}
		}
	}
	return l.main.push(r)
}

// divert moves r to a lane of its own for row, which an outsider holds.
func (l *lanes) divert(r *request, row string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	side := l.side[row]
	if side == nil {
		number := 1
		for number < len(l.numbers) && l.numbers[number] {
			number++
		}
		if number == len(l.numbers) {
			return overloaded("too many rows are locked by other clients of the database")
		}
		l.numbers[number] = true
		side = newLane(l, number, row)
		l.side[row] = side
		l.group.Go(func() error { side.serve(l.context); return nil })
	}
	return side.push(r)
}

// leave removes a side lane when nothing is queued, and reports whether it did.
func (l *lanes) leave(side *lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if side.queued() > 0 {
		return false
	}
	delete(l.side, side.row)
	l.numbers[side.number] = false
	return true
}

func (l *lanes) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// lane runs batches one after the other: while one is in flight, the next gathers.
type lane struct {
	lanes  *lanes
	store  *Store
	number int
	row    string // what a side lane waits for; "" for the main lane

	mu    sync.Mutex
	queue []*request
	bytes int
	dirty chan struct{} // capacity 1

	// The connection, used by serve alone.
	conn    *pgx.Conn
	backend backend
	warned  bool                  // PostgreSQL sent a warning since the batch began
	late    func(context.Context) // what a planted bug has left to be sent; nil
	span    trace.Span            // of the batch; nil: it is not traced
}

func newLane(l *lanes, number int, row string) *lane {
	return &lane{lanes: l, store: l.store, number: number, row: row, dirty: make(chan struct{}, 1)}
}

func (l *lane) push(r *request) error {
	size := r.op.size()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= queueOps || l.bytes+size > queueBytes {
		return overloaded("the server has more writes queued than it can take")
	}
	l.queue = append(l.queue, r)
	l.bytes += size
	l.wake()
	return nil
}

func (l *lane) wake() {
	select {
	case l.dirty <- struct{}{}:
	default:
	}
}

func (l *lane) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// gather takes the next batch from the queue.
func (l *lane) gather() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, 0
	for n < len(l.queue) && n < batchOps {
		size := l.queue[n].op.size()
		if n > 0 && bytes+size > batchBytes {
			break
		}
		bytes += size
		n++
	}
	batch := make([]*request, 0, n)
	for _, r := range l.queue[:n] {
		if err := r.ctx.Err(); err != nil {
			r.finish(err)
			continue
		}
		batch = append(batch, r)
	}
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	l.bytes -= bytes
	return batch
}

func (l *lane) serve(ctx context.Context) {
	defer l.disconnect()
	for {
		batch := l.gather()
		if len(batch) > 0 {
			end := l.begin(batch)
			if l.number == 0 {
				l.run(ctx, batch)
				if fault.Planted(fault.EarlyAnswers) {
					l.sendLate(ctx)
				}
			} else {
				l.runSide(ctx, batch)
			}
			end()
			continue
		}
		if l.queued() > 0 {
			continue
		}
		if l.number > 0 && l.lanes.leave(l) || l.number == 0 && l.lanes.isClosed() && l.queued() == 0 {
			return
		}
		if l.number == 0 {
			<-l.dirty
		}
	}
}

// run carries out a batch and answers its requests.
func (l *lane) run(ctx context.Context, requests []*request) {
	blocked := 0
	for attempt := 1; len(requests) > 0; attempt++ {
		err := l.try(ctx, requests)
		switch {
		case err == nil:
			return
		case errors.Is(err, errUnknown): // before all else: whatever its cause is, nothing is tried again
			l.fail(requests, unavailable(err))
			return
		case errors.Is(err, errTooManyRows):
			half := len(requests) / 2
			l.run(ctx, requests[:half])
			l.run(ctx, requests[half:])
			return
		case sqlState(err) == stateLockTimeout:
			if blocked++; blocked > 3 {
				l.oneByOne(ctx, requests, mapError(err))
				return
			}
			requests = l.split(ctx, requests)
		case disconnected(err) && (sqlState(err) != "" || !l.connected()):
			l.disconnect()
			if attempt >= reconnectTries {
				l.fail(requests, unavailable(err))
				return
			}
		case retryable(err) && attempt < 5:
		default:
			l.oneByOne(ctx, requests, mapError(err))
			return
		}
	}
}

// oneByOne runs each request alone, so that what one of them broke does not meet the others. A request that was alone
// already gets err.
func (l *lane) oneByOne(ctx context.Context, requests []*request, err error) {
	if len(requests) == 1 {
		l.fail(requests, err)
		return
	}
	begun := time.Now()
	for i, r := range requests {
		if time.Since(begun) > lockPhase { // what is in the way of so many is in the way of all
			l.fail(requests[i:], err)
			return
		}
		l.run(ctx, []*request{r})
		if !r.refused() {
			begun = time.Now()
		}
	}
}

func (l *lane) fail(requests []*request, err error) {
	l.store.log.Warn("writes failed", "requests", len(requests), "error", err)
	for _, r := range requests {
		r.finish(err)
	}
}

// split finds the rows that others hold right now, moves the requests that need them to side lanes, and answers the
// rest.
func (l *lane) split(ctx context.Context, requests []*request) (rest []*request) {
	held, err := l.held(ctx, requests)
	if err != nil {
		return requests // met again, and handled, by the next try
	}
	for _, r := range requests {
		n := newNeeds()
		r.op.needs(n)
		row := ""
		for _, name := range n.rows() {
			if held[name] {
				row = name
				break
			}
		}
		if row == "" {
			rest = append(rest, r)
		} else if err := l.lanes.divert(r, row); err != nil {
			r.finish(err)
		}
	}
	return rest
}

// runSide carries out a side lane's batch, trying until the outsider lets go of the row.
func (l *lane) runSide(ctx context.Context, requests []*request) {
	deadline := time.Now().Add(l.store.patience.side)
	for {
		err := l.try(ctx, requests)
		switch {
		case err == nil:
			return
		case errors.Is(err, errUnknown):
			l.fail(requests, unavailable(err))
			return
		case sqlState(err) != stateLockTimeout && !retryable(err): // the row is not what is in the way
			l.run(ctx, requests)
			return
		case time.Now().After(deadline) || l.lanes.isClosed():
			l.fail(requests, overloaded("%s is locked by another client of the database", l.row[2:]))
			return
		}
		timer := time.NewTimer(sideRetry)
		select {
		case <-timer.C:
		case <-l.dirty:
		}
		timer.Stop()
	}
}

// try runs one transaction for requests and answers them after its COMMIT. Its errors mean that nothing was committed
// and nobody answered, but for errUnknown: whether it was committed could not be found out.
func (l *lane) try(ctx context.Context, requests []*request) error {
	for {
		if err := l.ensureConnected(ctx); err != nil {
			return err
		}
		b := newBatch(l)
		carryOut := b.decide
		if appendable(requests) && !fault.Planted(fault.EarlyAnswers) && !fault.Planted(fault.EarlyClock) {
			carryOut = b.appendLogs
		}
		if fault.Planted(fault.SeqsBeforeCommit) && appendable(requests) {
			carryOut = b.appendLate
		}
		missing, err := carryOut(ctx, requests)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			if err := l.reserve(ctx, missing); err != nil {
				return err
			}
			continue
		}
		b.announce()
		b.told(requests)
		for i, r := range requests {
			r.finish(b.answers[i])
		}
		return nil
	}
}

// reserve gives up the transaction and makes rows for topics. It uses the lane's own connection, so that no commit waits
// for readers.
func (l *lane) reserve(ctx context.Context, topics []string) error {
	l.rollback(ctx)
	if err := l.ensureConnected(ctx); err != nil {
		return err
	}
	if err := l.store.reserveTopics(ctx, l.conn, topics); err != nil {
		return err
	}
	fault.Point(fault.TopicReserved)
	return nil
}

// rollback ends the transaction; a connection that cannot do it in time is dropped.
func (l *lane) rollback(ctx context.Context) {
	switch {
	case !l.connected():
		l.disconnect()
		return
	case l.conn.PgConn().TxStatus() == 'I': // there is none
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lockPhase)
	defer cancel()
	if _, err := l.conn.Exec(ctx, "ROLLBACK"); err != nil {
		l.disconnect()
	}
}

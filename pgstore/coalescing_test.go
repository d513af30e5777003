package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"pipeproc/api"
)

// line is a connection to no database, on which a test does what it likes.
type line struct {
	exec     func(sql string, args []any) error
	notified chan *pgconn.Notification // closed: the connection is cut
}

func (l *line) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, l.exec(sql, args)
}

func (l *line) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	select {
	case n, ok := <-l.notified:
		if !ok {
			return nil, errCutOff
		}
		return n, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *line) Close(context.Context) error { return nil }

var errCutOff = errors.New("cut off")

// newQuietHub is the hub of a store that has no database.
func newQuietHub(t *testing.T) *hub {
	t.Helper()
	none, err := pgxpool.New(t.Context(), "host=127.0.0.1 port=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(none.Close)
	s := &Store{cfg: Config{Namespace: "default"}, server: "this", log: slog.New(slog.DiscardHandler), pool: &pool{Pool: none}, meters: newMeters(nil)}
	s.hub = newHub(s)
	return s.hub
}

// run runs f until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// The first change after a quiet moment is told at once; those that follow are told together, once in notifyGap, and each
// topic's last head is among them.
func TestChangesAreToldTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietHub(t)
		var told []time.Time
		heads := map[string]int64{}
		opened := 0
		h.connect = func(context.Context, string) (session, error) {
			opened++
			return &line{exec: func(sql string, args []any) error {
				if !strings.Contains(sql, "pg_notify") {
					return nil
				}
				told = append(told, time.Now())
				var m message
				if err := json.Unmarshal([]byte(args[1].(string)), &m); err != nil || m.From != "this" || args[0] != "pipeproc_default" {
					t.Errorf("told %v: %v", args, err)
				}
				for name, head := range m.Topics {
					if head < heads[name] {
						t.Errorf("%s went back from %d to %d", name, heads[name], head)
					}
					heads[name] = head
				}
				return nil
			}}, nil
		}
		run(t, h.notify)
		began := time.Now()
		change := func(topic string, head int64) {
			var c changes
			c.topic(topic, head)
			h.publish(c)
		}
		change("a", 1)
		synctest.Wait()
		if len(told) != 1 || !told[0].Equal(began) {
			t.Fatalf("the first was told at %v, not at once", told)
		}
		for i := range int64(1000) { // one each 100 µs
			time.Sleep(100 * time.Microsecond)
			change(fmt.Sprint("t", i%3), i)
			change("a", i+2)
		}
		time.Sleep(2 * notifyGap)
		synctest.Wait()
		for i := range told[1:] {
			if gap := told[i+1].Sub(told[i]); gap < notifyGap {
				t.Errorf("two messages within %v", gap)
			}
		}
		if n := len(told); n < 15 || n > 22 {
			t.Errorf("%d messages in 100 ms", n)
		}
		if diff := cmp.Diff(map[string]int64{"a": 1001, "t0": 999, "t1": 997, "t2": 998}, heads); diff != "" {
			t.Error(diff)
		}
		if opened != 1 {
			t.Errorf("%d connections", opened)
		}
		time.Sleep(time.Hour)
		change("a", 5000)
		synctest.Wait()
		if last := told[len(told)-1]; !last.Equal(time.Now()) {
			t.Errorf("after a quiet hour it was told %v late", time.Since(last))
		}
	})
}

// A message whose connection was cut since it was used last goes out once more, on another one; one that a fresh connection
// does not take is left to the polls, and the next one is tried again.
func TestChangesAreToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietHub(t)
		var told []string
		opened, broken, refused := 0, 0, false
		h.connect = func(context.Context, string) (session, error) {
			if refused {
				return nil, errCutOff
			}
			opened++
			mine := opened
			return &line{exec: func(sql string, args []any) error {
				if mine == broken {
					return errCutOff
				}
				if strings.Contains(sql, "pg_notify") {
					told = append(told, args[1].(string))
				}
				return nil
			}}, nil
		}
		run(t, h.notify)
		change := func(topic string) {
			var c changes
			c.topic(topic, 1)
			h.publish(c)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		change("a")
		broken = 1
		change("b")
		if len(told) != 2 || opened != 2 || !strings.Contains(told[1], `"b"`) {
			t.Fatalf("told %q on %d connections", told, opened)
		}
		broken, refused = 2, true
		change("c")
		refused = false
		change("d")
		if n := len(told); n != 3 || !strings.Contains(told[n-1], `"d"`) {
			t.Errorf("told %q", told)
		}
	})
}

// A listener that is cut off comes back after a quarter of a second, again and again; each time it listens first, and then
// looks, so that nothing falls between the two.
func TestTheListenerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietHub(t)
		var steps []string
		began := time.Now()
		step := func(name string) {
			steps = append(steps, fmt.Sprintf("%s at %d ms", name, time.Since(began).Milliseconds()))
		}
		var open *line
		refuse := 3
		h.connect = func(context.Context, string) (session, error) {
			if refuse--; refuse >= 0 {
				step("refused")
				return nil, errCutOff
			}
			open = &line{notified: make(chan *pgconn.Notification), exec: func(sql string, _ []any) error {
				step(strings.Fields(sql)[0])
				return nil
			}}
			return open, nil
		}
		h.look = func(context.Context) error {
			step("look")
			return nil
		}
		watch := h.store.Watch([]string{"t"}, []string{"p"})
		defer watch.Close()
		woken := func() bool {
			synctest.Wait()
			select {
			case <-watch.C:
				return true
			default:
				return false
			}
		}
		run(t, h.listen)
		time.Sleep(time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"refused at 0 ms", "refused at 250 ms", "refused at 500 ms", "LISTEN at 750 ms", "look at 750 ms"}, steps); diff != "" {
			t.Fatal(diff)
		}
		for payload, want := range map[string]bool{
			`{"f":"other","t":{"t":7}}`: true, `{"f":"other","p":["p"]}`: true, `{"f":"other","t":{"u":7}}`: false,
			`{"f":"this","t":{"t":8}}`: false, `nonsense`: false,
		} {
			open.notified <- &pgconn.Notification{Payload: payload}
			if got := woken(); got != want {
				t.Errorf("%s wakes: %v", payload, got)
			}
		}
		steps = nil
		close(open.notified)
		time.Sleep(time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"LISTEN at 1250 ms", "look at 1250 ms"}, steps); diff != "" {
			t.Error(diff)
		}
	})
}

// A batch gathers what is queued, in order, within its bounds; one request that is larger than they are goes alone, and who
// has left is not served.
func TestBatchesAreBounded(t *testing.T) {
	s := &Store{meters: newMeters(nil)}
	s.lanes = newLanes(s)
	l := s.lanes.main
	gone, leave := context.WithCancel(t.Context())
	leave()
	add := func(ctx context.Context, size int) *request {
		r := &request{op: &commitOp{bytes: size}, ctx: ctx, done: make(chan struct{})}
		if err := l.push(r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for range 2*batchOps + 1 {
		add(t.Context(), 1)
	}
	for _, want := range []int{batchOps, batchOps, 1, 0} {
		if n := len(l.gather()); n != want {
			t.Errorf("a batch of %d requests, not %d", n, want)
		}
	}
	add(t.Context(), batchBytes/2)
	left := add(gone, 1)
	add(t.Context(), batchBytes/2-1)
	great := add(t.Context(), batchBytes+1)
	add(t.Context(), 1)
	if n := len(l.gather()); n != 2 {
		t.Errorf("a batch of %d requests", n)
	}
	if <-left.done; !errors.Is(left.err, context.Canceled) {
		t.Errorf("who has left got %v", left.err)
	}
	if b := l.gather(); len(b) != 1 || b[0] != great {
		t.Errorf("the great one shares a batch of %d", len(b))
	}
	if n := len(l.gather()); n != 1 {
		t.Errorf("a batch of %d requests", n)
	}
	for l.bytes+batchBytes <= queueBytes {
		add(t.Context(), batchBytes)
	}
	err := l.push(&request{op: &commitOp{bytes: batchBytes}, ctx: t.Context(), done: make(chan struct{})})
	if api.CodeOf(err) != api.CodeOverloaded {
		t.Errorf("more bytes than may be queued: %v", err)
	}
	l.queue, l.bytes = nil, 0
	for range queueOps {
		add(t.Context(), 0)
	}
	if err := l.push(&request{op: &commitOp{}, ctx: t.Context(), done: make(chan struct{})}); api.CodeOf(err) != api.CodeOverloaded {
		t.Errorf("more requests than may be queued: %v", err)
	}
}

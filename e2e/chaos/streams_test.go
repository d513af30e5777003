//go:build linux

package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/e2e/check"
)

// ending tells tails that nothing more is committed: the heads are theirs to reach.
type ending struct {
	told  chan struct{}
	heads map[string]int64 // once told is closed
}

// tail follows topics from their begin until it has had everything up to the ending's heads, over as many connections as it
// takes.
func (l *load) tail(ctx context.Context, topics []string, end *ending) error {
	u := l.visitor("tail")
	defer u.CloseIdleConnections()
	t := &tailing{stream: check.Stream{Name: u.name, Starts: map[string]int64{}}, topics: topics, next: map[string]int64{}, end: end}
	for _, topic := range topics {
		t.stream.Starts[topic] = 0
	}
	for !t.done() {
		if ctx.Err() != nil {
			return errors.Join(errors.New(u.name+" does not come to its end"), ctx.Err())
		}
		if err := l.follow(ctx, u, t); err != nil && ctx.Err() == nil {
			return err
		}
	}
	t.stream.Whole = true
	l.recorder.Stream(t.stream)
	l.tally.add(tailsDone, 1)
	return nil
}

// tailing is how far a tail is.
type tailing struct {
	stream check.Stream
	topics []string
	last   string           // the id of the last event
	next   map[string]int64 // the seq expected, by topic
	end    *ending
}

func (t *tailing) ending() bool {
	select {
	case <-t.end.told:
		return true
	default:
		return false
	}
}

func (t *tailing) done() bool {
	return t.ending() && !slices.ContainsFunc(t.topics, func(topic string) bool { return t.next[topic] < t.end.heads[topic] })
}

// follow is one connection of a tail. Its error is what a stream must not tell.
func (l *load) follow(ctx context.Context, u *visitor, t *tailing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !t.ending() { // whoever has had everything already waits for nothing more
		go func() {
			select {
			case <-t.end.told:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	// The stream of a server that was stopped, or whose network is half-open, is silent for longer than a heartbeat.
	silence := time.AfterFunc(20*time.Second, cancel)
	defer silence.Stop()
	var resume []client.StreamOption
	if t.last != "" {
		resume = append(resume, client.LastEventID(t.last))
	}
	stream, err := u.Tail(ctx, client.TailOptions{Topics: t.topics, Start: "earliest"}, resume...)
	if err != nil {
		l.outcome(err)
		if status := client.StatusOf(err); status >= 400 && status < 500 {
			return err
		}
		_ = pause(ctx, 50*time.Millisecond)
		return nil
	}
	defer stream.Close()
	t.stream.Connected = append(t.stream.Connected, l.recorder.Now())
	l.tally.add("connections of tails", 1)
	for !t.done() {
		e, err := stream.Next()
		if err != nil {
			return nil
		}
		silence.Reset(20 * time.Second)
		if u.random.IntN(4_000) == 0 { // a slow reader, whose events pile up
			l.tally.add("fault client: a tail that pauses", 1)
			_ = pause(ctx, 2*time.Second)
		}
		t.last = e.ID
		record := check.Event{Stream: t.stream.Name, Connection: len(t.stream.Connected)}
		switch e.Type {
		case "log":
			var log client.TailLog
			if err := e.Decode(&log); err != nil {
				return err
			}
			record.Topic, record.Logs = log.Topic, []check.Log{{ID: log.ID, Value: valueOf(log.Body)}}
			t.next[log.Topic] = log.ID.Seq + 1
			l.tally.add(events, 1)
		case "gap":
			var gap client.Gap
			if err := e.Decode(&gap); err != nil {
				return err
			}
			resumed, err := seqOf(gap.ResumedAt)
			if err != nil {
				return err
			}
			requested := t.next[gap.Topic]
			if gap.Requested != nil {
				if requested, err = seqOf(*gap.Requested); err != nil {
					return err
				}
			}
			record.Topic, record.Gap = gap.Topic, &check.Gap{Requested: requested, ResumedAt: resumed}
			t.next[gap.Topic] = max(t.next[gap.Topic], resumed)
			l.tally.add("gaps of tails", 1)
		default:
			return errors.New("a tail's event " + e.Type + ": " + string(e.Data))
		}
		l.recorder.Event(record)
	}
	return nil
}

// seqOf reads a place: an id, or ":seq".
func seqOf(place string) (int64, error) {
	if seq, ok := strings.CutPrefix(place, ":"); ok {
		return strconv.ParseInt(seq, 10, 64)
	}
	id, err := api.ParseID(place)
	return id.Seq, err
}

// watch reads the stream of a liveProc, acks what comes, and comes back when the connection breaks, until ctx is done.
// known is told the liveProc's name.
func (l *load) watch(ctx context.Context, topic string, known chan<- check.Proc) error {
	u := l.visitor("live")
	defer u.CloseIdleConnections()
	last := ""
	created := l.recorder.Begin(u.name)
	told := false
	for ctx.Err() == nil {
		var resume []client.StreamOption
		if last != "" {
			resume = append(resume, client.LastEventID(last))
		} else {
			created = l.recorder.Begin(u.name)
		}
		open, cancel := context.WithCancel(ctx)
		silence := time.AfterFunc(20*time.Second, cancel)
		stream, err := u.TopicLive(open, topic, client.LiveOptions{Mode: api.ModeAll, Count: 16}, resume...)
		if err != nil {
			l.outcome(err)
			if errors.Is(err, client.ErrNoStream) && ctx.Err() == nil {
				cancel()
				return errors.New(u.name + " is told not to come back, and nobody else has its connection")
			}
			_ = pause(open, 50*time.Millisecond)
		} else {
			l.tally.add("connections of liveProcs", 1)
			err = l.liveEvents(ctx, u, stream, silence, func(p api.Proc) {
				if !told {
					told = true
					known <- check.Proc{Name: p.Name, Topic: topic, Created: l.recorder.End(created, check.OK)}
				}
			})
			last = stream.LastEventID()
			stream.Close()
		}
		silence.Stop()
		cancel()
		if err != nil && ctx.Err() == nil && client.StatusOf(err) == 0 && !broken(err) {
			return err
		}
	}
	return nil
}

// broken reports whether an error is that of a connection, and not of what came over it.
func broken(err error) bool {
	var op net.Error
	return errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// liveEvents handles the events of one connection, until it breaks.
func (l *load) liveEvents(ctx context.Context, u *visitor, stream *client.Events, silence *time.Timer, began func(api.Proc)) error {
	for {
		e, err := stream.Next()
		if err != nil {
			return nil
		}
		silence.Reset(20 * time.Second)
		switch e.Type {
		case "liveproc":
			var p api.Proc
			if err := e.Decode(&p); err != nil {
				return err
			}
			began(p)
		case "logs":
			var claimed api.Claimed
			if err := e.Decode(&claimed); err != nil {
				return err
			}
			span := l.recorder.End(check.Span{Client: u.name}, check.OK)
			l.handed(u, span, check.ByStream, false, &claimed)
			l.tally.add(events, 1)
			l.process(context.WithoutCancel(ctx), u, &claimed, false)
		default:
			return errors.New("a liveProc's event " + e.Type + ": " + string(e.Data))
		}
	}
}

package livestream

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pipeproc/api"
)

// A view is what a follower knows of its topic. It never changes once it is published, so readers take frames from it
// without a lock; frames are appended behind what earlier views can see.
type view struct {
	id     int64     // the topic's; 0: there is none of that name
	first  int64     // the seq of frames[0]
	frames []frame   // the latest logs
	bytes  int       // that frames take
	asOf   time.Time // the store was asked not before
}

// next is the seq after the last frame.
func (v *view) next() int64 { return v.first + int64(len(v.frames)) }

// A follower reads a topic once for all its readers: one query for each commit, however many clients there are. It
// lives as long as it has readers.
type follower struct {
	s      *Streams
	topic  string
	cancel context.CancelFunc
	again  chan struct{}        // somebody needs a view that is newer
	view   atomic.Pointer[view] // nil until the store has answered; rings writes it
	ring   *list.Element        // in rings.order; nil while the ring is empty

	mu      sync.Mutex
	readers map[chan<- struct{}]struct{} // dirty flags, each of capacity 1
}

// follow makes notify the dirty flag of a reader of topic: it is raised whenever the view changes. unfollow is to be
// called once. Error: CodeOverloaded where the server follows all the topics that it can.
func (s *Streams) follow(topic string, notify chan<- struct{}) (*follower, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.followers[topic]
	if f == nil {
		if len(s.followers) >= s.mostFollowed {
			return nil, overloaded("%d topics are followed, and this server takes no more", s.mostFollowed)
		}
		f = &follower{s: s, topic: topic, again: make(chan struct{}, 1), readers: map[chan<- struct{}]struct{}{}}
		var ctx context.Context
		ctx, f.cancel = context.WithCancel(s.ctx)
		s.followers[topic] = f
		s.followed.Add(1)
		s.open.Go(func() {
			defer s.followed.Add(-1)
			defer s.rings.leave(f)
			f.run(ctx)
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers[notify] = struct{}{}
	return f, nil
}

func (s *Streams) unfollow(f *follower, notify chan<- struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, notify)
	if len(f.readers) == 0 {
		delete(s.followers, f.topic)
		f.cancel()
	}
}

// refresh asks for a view as of now.
func (f *follower) refresh() { raise(f.again) }

func raise(flag chan<- struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) {
	watch := f.s.Watcher.Watch([]string{f.topic}, nil) // before the first look
	defer watch.Close()
	var tries backoff
	retry := time.NewTimer(0)
	defer retry.Stop()
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-watch.C:
		case <-f.again:
			asked = true
		}
		err := f.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d, first := tries.next()
			if first {
				f.s.Logger.Warn("followed topic not read", "topic", f.topic, "err", err)
			}
			retry.Reset(d)
		default:
			tries.reset()
			if asked {
				asked = false
				f.wake()
			}
		}
	}
}

// look brings the view up to date.
func (f *follower) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for {
		old, asOf := f.view.Load(), time.Now()
		if old != nil && old.id != 0 {
			logs, first, exists, err := f.s.Tailer.ReadFrom(ctx, old.id, old.next(), ringLogs, api.MaxPageBytes)
			if err != nil {
				return err
			}
			if exists {
				f.add(old, asOf, logs, first)
				if isLastPage(logs, ringLogs) {
					return nil
				}
				continue
			}
		}
		heads, err := f.s.Tailer.Heads(ctx, []string{f.topic})
		if err != nil {
			return err
		}
		h := heads[f.topic]
		v := &view{id: h.ID, first: h.Head, asOf: asOf}
		if old != nil && h.Head-h.First <= ringLogs {
			v.first = h.First // made while we watched: its logs are new to all readers
		}
		if old != nil && old.id != 0 && old.id == h.ID { // deleted in between the two answers, and one of them is old
			v = &view{asOf: asOf}
		}
		f.s.rings.change(f, func(view *view) { *view = *v })
		if old == nil || old.id != v.id {
			f.wake()
		}
		if v.id == 0 || v.first == h.Head {
			return nil
		}
	}
}

// isLastPage tells that logs were all there was: neither of the bounds of a page was reached.
func isLastPage(logs []api.Log, limit int) bool {
	if len(logs) >= limit {
		return false
	}
	size := 0
	for _, l := range logs {
		size += len(l.Body)
	}
	return size+api.MaxBodySize <= api.MaxPageBytes
}

// add publishes a view with logs behind those of old. first is the first retained seq: where it is not among them, GC
// took logs that were never seen here, and the ring begins anew after the gap.
func (f *follower) add(old *view, asOf time.Time, logs []api.Log, first int64) {
	frames, bytes := make([]frame, len(logs)), 0
	for i, l := range logs {
		frames[i] = newFrame(f.topic, old.id, l)
		bytes += frames[i].size()
	}
	f.s.rings.change(f, func(v *view) {
		v.asOf = asOf
		if first > v.next() {
			v.first, v.frames, v.bytes = first, nil, 0
		}
		v.frames = append(v.frames, frames...)
		v.bytes += bytes
		v.trim()
	})
	if f.view.Load().next() != old.next() {
		f.wake()
	}
}

func (f *follower) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for notify := range f.readers {
		raise(notify)
	}
}

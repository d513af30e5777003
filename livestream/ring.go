package livestream

import (
	"container/list"
	"slices"
	"sync"
)

// mostFollowed is the most topics that a server follows at a time.
const mostFollowed = 100_000

// Bounds of the ring of recent logs of a followed topic, which may exceed them by a quarter before it is trimmed, and of
// all rings of the server together.
const (
	ringLogs     = 1024
	ringBytes    = 4 << 20
	allRingBytes = 256 << 20
)

// frameBytes is what a frame takes beside its bytes.
const frameBytes = 64

func (f *frame) size() int { return len(f.bytes) + frameBytes }

// trim lets go of the oldest frames, but for the last one. What is left moves to memory of its own.
func (v *view) trim() {
	if len(v.frames) <= ringLogs*5/4 && v.bytes <= ringBytes*5/4 {
		return
	}
	n, bytes := 0, v.bytes
	for len(v.frames)-n > 1 && (len(v.frames)-n > ringLogs || bytes > ringBytes) {
		bytes -= v.frames[n].size()
		n++
	}
	v.first += int64(n)
	v.frames, v.bytes = slices.Clone(v.frames[n:]), bytes
}

// rings bounds what the rings of all followers hold together. Where it is too much, the ring that has had no news for the
// longest is let go, the last frame included: whoever is behind then pages from the store, and most readers are not.
type rings struct {
	most int

	mu    sync.Mutex
	bytes int
	order *list.List // of the followers whose rings hold something, the one that changed last at the back
}

// change replaces a follower's view by one that change makes of it, and lets go of rings as long as they hold too much.
func (r *rings) change(f *follower, change func(v *view)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var v view
	if old := f.view.Load(); old != nil {
		v = *old
	}
	r.bytes -= v.bytes
	change(&v)
	r.bytes += v.bytes
	f.view.Store(&v)
	switch {
	case v.bytes == 0:
		r.remove(f)
	case f.ring == nil:
		f.ring = r.order.PushBack(f)
	default:
		r.order.MoveToBack(f.ring)
	}
	for r.bytes > r.most && r.order.Len() > 0 {
		r.drop(r.order.Front().Value.(*follower))
	}
}

// drop empties a ring: there is nothing to tell its readers, for whom the store has it all.
func (r *rings) drop(f *follower) {
	v := *f.view.Load()
	r.bytes -= v.bytes
	v.first, v.frames, v.bytes = v.next(), nil, 0
	f.view.Store(&v)
	r.remove(f)
}

func (r *rings) remove(f *follower) {
	if f.ring != nil {
		r.order.Remove(f.ring)
		f.ring = nil
	}
}

// leave lets the ring of a follower go that has no readers any more.
func (r *rings) leave(f *follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.ring != nil {
		r.drop(f)
	}
}

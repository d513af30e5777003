package livestream

import (
	"slices"
	"sync"
	"time"
)

// What the clients of a server may hold of events that they have not read yet.
const (
	ownBytes  = pageBytes // a client by itself, however slowly it reads: small events, pages of logs
	roomBytes = 256 << 20 // all clients together beyond that: large events
)

// slowest is the bytes of a share a second, of which half are on the wire (1 Mbit/s), that a client reads at least while
// others wait for room.
const slowest = 256 << 10

// A room bounds the memory of the large events that are being sent. An event has a share of it until its client has read
// it; who finds no room lets go of what it has read of the store, and reads it again when its turn has come. First come,
// first served. While somebody waits, nobody has a share for longer than patience and what slowest allows for: clients that take
// longer lose their connections, and get the same event again when they are back.
type room struct {
	size     int
	patience time.Duration
	slowest  int

	mu     sync.Mutex
	free   int
	queue  []*share // that wait
	held   map[*share]struct{}
	frames map[*byte]int // of large frames, by their first bytes: the clients that one is being sent to
}

// A share of a room is asked for by one client at a time. The nil share is of nothing.
type share struct {
	room  *room
	n     int
	frame *byte           // what the share is of, together with other clients'; nil: it is the client's alone
	ready chan<- struct{} // dirty flag: raised when a share that waited is there
	cut   func()          // takes the client's connection away

	granted bool
	late    bool // had for longer than patience; to be cut off when somebody waits
	timer   *time.Timer
}

func newRoom(size int, patience time.Duration) *room {
	return &room{size: size, patience: patience, slowest: slowest, free: size, held: map[*share]struct{}{}, frames: map[*byte]int{}}
}

// ask answers a share of n bytes, of all there are where n is more. It is there already, or waits, and ready is raised
// when it is there; give is to be called in either case.
func (r *room) ask(n int, ready chan<- struct{}, cut func()) *share {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &share{room: r, n: min(n, r.size), ready: ready, cut: cut}
	if len(r.queue) == 0 && s.n <= r.free {
		r.grant(s)
	} else {
		r.queue = append(r.queue, s)
		r.hurry()
	}
	return s
}

// join answers a share of a frame of a ring, which is in memory once for all the clients that it is being sent to, and does
// not wait behind others: each of its readers would read it by itself; nil when there is no room for it.
func (r *room) join(frame []byte, cut func()) *share {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &share{room: r, n: len(frame), frame: &frame[0], cut: cut}
	if r.frames[s.frame] == 0 && s.n > r.free {
		return nil
	}
	r.grant(s)
	return s
}

// admit grants shares to those who wait, as long as there is room.
func (r *room) admit() {
	for len(r.queue) > 0 && r.queue[0].n <= r.free {
		s := r.queue[0]
		r.queue = slices.Delete(r.queue, 0, 1)
		r.grant(s)
		raise(s.ready)
	}
}

func (r *room) grant(s *share) {
	if s.frame == nil || r.frames[s.frame] == 0 {
		r.free -= s.n
	}
	if s.frame != nil {
		r.frames[s.frame]++
	}
	s.granted = true
	r.held[s] = struct{}{}
	s.timer = time.AfterFunc(s.patience(), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.late = true
		r.hurry()
	})
}

// patience is how long a client may have its share while others wait.
func (s *share) patience() time.Duration {
	return s.room.patience + time.Duration(s.n)*time.Second/time.Duration(s.room.slowest)
}

// begin tells that the client is being sent what the share is for from now on.
func (s *share) begin() {
	if s == nil {
		return
	}
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.granted && s.timer.Stop() {
		s.timer.Reset(s.patience())
	}
}

// hurry cuts off who has had a share for too long, where somebody waits.
func (r *room) hurry() {
	if len(r.queue) == 0 {
		return
	}
	for s := range r.held {
		if s.late {
			s.late = false // once is enough
			s.cut()
		}
	}
}

// waits tells that the share is yet to come.
func (s *share) waits() bool {
	if s == nil {
		return false
	}
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	return !s.granted
}

// covers tells that the share is for n bytes at least.
func (s *share) covers(n int) bool { return s != nil && s.n >= min(n, s.room.size) }

// give gives the share back; one that waits no longer does. It is to be called once.
func (s *share) give() {
	if s == nil {
		return
	}
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if !s.granted {
		r.queue = slices.DeleteFunc(r.queue, func(other *share) bool { return other == s })
		r.admit()
		return
	}
	s.timer.Stop()
	delete(r.held, s)
	if s.frame != nil {
		if r.frames[s.frame]--; r.frames[s.frame] > 0 {
			return
		}
		delete(r.frames, s.frame)
	}
	r.free += s.n
	r.admit()
}

package livestream

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

func (r *room) left() (free, waiting int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.free, len(r.queue)
}

// TestRoomInOrder: shares are granted in the order in which they were asked for, a large one is not passed over for small
// ones, and one that is larger than the room takes all of it.
func TestRoomInOrder(t *testing.T) {
	r := newRoom(10, time.Hour)
	var ready [6]chan struct{}
	for i := range ready {
		ready[i] = make(chan struct{}, 1)
	}
	cut := func() { t.Error("somebody was cut off") }
	first := r.ask(6, ready[0], cut)
	large := r.ask(99, ready[1], cut)
	small := r.ask(1, ready[2], cut)
	left := r.ask(1, ready[3], cut)
	last := r.ask(3, ready[4], cut)
	if first.waits() || !large.waits() || !small.waits() || !left.waits() || !last.waits() {
		t.Error("granted:", first.waits(), large.waits(), small.waits(), left.waits(), last.waits())
	}
	if !first.covers(6) || first.covers(7) || !large.covers(99) || (*share)(nil).covers(1) || (*share)(nil).waits() {
		t.Error("what shares cover is wrong")
	}
	left.give()
	first.give()
	if large.waits() || !small.waits() {
		t.Error("the large one waits on")
	}
	large.give()
	if small.waits() || last.waits() {
		t.Error("the small ones wait on")
	}
	for i, want := range []int{0, 1, 1, 0, 1} { // what was there at once is not told of
		if len(ready[i]) != want {
			t.Errorf("share %d was told of %d times", i, len(ready[i]))
		}
	}
	small.give()
	last.give()
	if free, waiting := r.left(); free != 10 || waiting != 0 || len(r.held) != 0 {
		t.Error(free, waiting, len(r.held))
	}
	waiting := r.ask(10, ready[0], cut)
	given := r.ask(10, ready[1], cut)
	after := r.ask(5, ready[2], cut)
	waiting.give()
	given.give()
	if after.waits() {
		t.Error("one who asks behind one that has left waits on")
	}
	after.give()
}

// TestRoomOfFrames: a frame takes its room once, however many clients it is being sent to.
func TestRoomOfFrames(t *testing.T) {
	r := newRoom(10, time.Hour)
	cut := func() { t.Error("somebody was cut off") }
	a, b := make([]byte, 6), make([]byte, 6)
	one, two := r.join(a, cut), r.join(a, cut)
	if free, _ := r.left(); one == nil || two == nil || free != 4 {
		t.Fatal(one, two, free)
	}
	if r.join(b, cut) != nil {
		t.Error("there is no room for another frame")
	}
	one.give()
	if r.join(b, cut) != nil {
		t.Error("the first frame is being sent yet")
	}
	two.give()
	three := r.join(b, cut)
	if three == nil {
		t.Fatal("there is room for the other frame")
	}
	three.give()
	if free, _ := r.left(); free != 10 || len(r.frames) != 0 {
		t.Error(free, len(r.frames))
	}
}

// TestRoomHurries: who has had a share for longer than patience is cut off as soon as somebody waits, and not before.
func TestRoomHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(10, time.Second)
		cuts := map[string]*atomic.Int32{"slow": {}, "fast": {}, "waiting": {}}
		cut := func(who string) func() { return func() { cuts[who].Add(1) } }
		want := func(when string, slow, fast, waiting int32) {
			t.Helper()
			if cuts["slow"].Load() != slow || cuts["fast"].Load() != fast || cuts["waiting"].Load() != waiting {
				t.Error(when, cuts["slow"].Load(), cuts["fast"].Load(), cuts["waiting"].Load())
			}
		}
		ready := make(chan struct{}, 1)
		slow := r.ask(4, ready, cut("slow"))
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		pass(2 * time.Second)
		fast := r.ask(4, ready, cut("fast"))
		want("nobody waits", 0, 0, 0)
		waiting := r.ask(4, ready, cut("waiting"))
		want("somebody waits", 1, 0, 0)
		pass(500 * time.Millisecond)
		want("before its time is over", 1, 0, 0)
		pass(time.Second)
		want("when its time is over", 1, 1, 0)
		slow.give()
		fast.give()
		if waiting.waits() {
			t.Error("it waits on")
		}
		waiting.give()
		pass(time.Hour)
		want("after it has given its share back", 1, 1, 0)
	})
}

// largeLiveProc makes a liveProc whose next event is of n logs of a MiB each.
func largeLiveProc(t *testing.T, m *memory, topic string, n int) (name, path string) {
	t.Helper()
	for range n {
		m.commit(topic, body(1<<20-20))
	}
	p, err := m.CreateLiveProc(t.Context(), api.LiveProcSpec{Topic: topic, Mode: api.ModeAll, Count: &n})
	if err != nil {
		t.Fatal(err)
	}
	return p.Name, "/v1/live-procs/" + p.Name + "/changes"
}

// TestLargeEventsWaitForRoom: while a client that reads slowly holds the room, large events of others wait, small ones do
// not; heartbeats go on, and what ends a stream does so at once. As soon as there is room, they come; and when they have
// come, all of it is free again.
func TestLargeEventsWaitForRoom(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.Heartbeat, c.WriteTimeout = 10*time.Millisecond, time.Hour })
	const size = 20 << 20
	s.room = newRoom(size, time.Hour)
	taken := s.room.ask(size-100, nil, nil)

	name, path := largeLiveProc(t, m, "large", 3)
	ended, endedPath := largeLiveProc(t, m, "large", 2)
	live, end := s.open(t, path, ""), s.open(t, endedPath, "")
	live.next("liveproc")
	end.next("liveproc")
	tail := s.open(t, "/v1/tail?topic=large&topic=other&start=earliest", "")
	tail.opens()
	eventually(t, "all wait", func() bool { _, waiting := s.room.left(); return waiting == 3 })

	_, smallPath := liveProc(t, m, "small", api.ModeAll)
	small := s.open(t, smallPath, "")
	m.fill("small", 1)
	small.next("liveproc")
	small.next("logs")
	other := m.fill("other", 2) // behind a log that waits
	for _, l := range other {
		if e := tail.next("log"); e.Data != logOf("other", l) {
			t.Errorf("%.40s", e.Data)
		}
	}
	for range 3 {
		if e, err := live.Next(); err != nil || e.Comment == "" {
			t.Errorf("no heartbeat: %s %v", e.Type, err)
		}
	}
	turns, reads := m.count(&m.turns), m.count(&m.reads)
	for range 3 {
		if e, err := tail.Next(); err != nil || e.Comment == "" {
			t.Errorf("no heartbeat: %s %v", e.Type, err)
		}
	}
	if n := m.count(&m.turns) - turns; n != 0 {
		t.Errorf("%d turns for nothing", n)
	}
	if n := m.count(&m.reads) - reads; n != 0 {
		t.Errorf("%d reads for nothing", n)
	}
	m.onLive(t, ended, func(p *memoryLiveProc) error { return p.Disable() })
	end.next("end")
	end.ends()

	taken.give()
	if got := decodeAs[logsData](t, live.next("logs")); len(got.Logs) != 3 {
		t.Errorf("%d logs", len(got.Logs))
	} else {
		m.ack(t, name, got.Claim.Token)
	}
	live.next("logs")
	m.mu.Lock()
	large := m.topics["large"].logs
	m.mu.Unlock()
	tail.logs("large", large...)
	eventually(t, "all room is free", func() bool { free, waiting := s.room.left(); return free == size && waiting == 0 })
}

// TestSlowClientsMakeRoom: a client that takes its time for a large event keeps its share while nobody waits; then it loses
// its connection, and those who wait get theirs.
func TestSlowClientsMakeRoom(t *testing.T) {
	m := newMemory()
	s := newServer(t, m, func(c *Config) { c.WriteTimeout = time.Hour })
	const size = 10 << 20
	s.room = newRoom(size, 50*time.Millisecond)
	s.room.slowest = 1 << 40
	slow, slowPath := largeLiveProc(t, m, "large", 4)
	s.stall(t, slowPath)
	eventually(t, "it is written to", func() bool { free, _ := s.room.left(); return free < size })
	eventually(t, "patience is over", func() bool {
		s.room.mu.Lock()
		defer s.room.mu.Unlock()
		for held := range s.room.held {
			return held.late
		}
		return false
	})
	if s.Stats().LiveProcs != 1 {
		t.Error("it was cut off though nobody waits")
	}
	s.stall(t, "/v1/tail?topic=large&start=earliest")
	tail := s.open(t, "/v1/tail?topic=large&topic=x&start=earliest", "")
	_, path := largeLiveProc(t, m, "another", 4)
	live := s.open(t, path, "")
	live.next("liveproc")
	live.next("logs")
	m.mu.Lock()
	large := m.topics["large"].logs
	m.mu.Unlock()
	tail.logs("large", large...)
	eventually(t, "the slow one is gone", func() bool { return s.Stats().LiveProcs == 1 })
	if p, err := m.Proc(t.Context(), slow); err != nil || p.Claim == nil {
		t.Error("the claim moved without an ack")
	}
	again := s.open(t, slowPath, slow+":1:")
	again.next("liveproc")
	again.next("logs")
}

// TestLargeFramesOfARing: a large log that is being sent to many readers takes its room once; where there is none they page
// it from the store, in their turn.
func TestLargeFramesOfARing(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	const size = 5 << 20
	s.room = newRoom(size, time.Hour)
	var readers []*stream
	for range 10 {
		c := s.open(t, "/v1/tail?topic=a", "")
		c.opens()
		readers = append(readers, c)
	}
	reads := m.count(&m.reads)
	logs := m.commit("a", body(1<<20-20)) // 10 times 2 MiB would not fit
	for _, c := range readers {
		c.logs("a", logs...)
	}
	if n := m.count(&m.reads) - reads; n != 1 {
		t.Errorf("%d reads of one log", n)
	}
	taken := s.room.ask(size-100, nil, nil)
	logs = m.commit("a", body(1<<20-20))
	eventually(t, "all wait", func() bool { _, waiting := s.room.left(); return waiting == len(readers) })
	taken.give()
	for _, c := range readers {
		c.logs("a", logs...)
	}
	eventually(t, "all room is free", func() bool { free, waiting := s.room.left(); return free == size && waiting == 0 })
}

// TestRoomIsGivenBack: clients that go away while they wait for room, or while they are sent something large, leave nothing
// behind.
func TestRoomIsGivenBack(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	const size = 4 << 20
	s.room = newRoom(size, time.Hour)
	for range 5 {
		_, path := largeLiveProc(t, m, "a", 2)
		var clients []*stream
		for _, p := range []string{path, "/v1/tail?topic=a&start=earliest", path, "/v1/tail?topic=a&start=earliest"} {
			clients = append(clients, s.open(t, p, ""))
		}
		_, _ = io.ReadFull(clients[2].resp.Body, make([]byte, 100<<10))
		for _, c := range clients {
			c.close()
		}
	}
	eventually(t, "all are gone", func() bool { return s.Stats() == Stats{} })
	if free, waiting := s.room.left(); free != size || waiting != 0 || len(s.room.held) != 0 || len(s.room.frames) != 0 {
		t.Errorf("%d of %d are free, %d wait, %d have a share", free, size, waiting, len(s.room.held))
	}
}

// TestNoRoomForWhatIsGone: a stream whose claim ends while its event waits for room waits no longer.
func TestNoRoomForWhatIsGone(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.room = newRoom(1<<20, time.Hour)
	taken := s.room.ask(1<<20, nil, nil)
	defer taken.give()
	name, path := largeLiveProc(t, m, "a", 1)
	c := s.open(t, path, "")
	c.next("liveproc")
	eventually(t, "the event waits", func() bool { _, waiting := s.room.left(); return waiting == 1 })
	p, err := m.Proc(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	m.ack(t, name, p.Claim.Token)
	eventually(t, "nothing waits", func() bool { _, waiting := s.room.left(); return waiting == 0 })
	m.fill("a", 1)
	c.next("logs")
}

// TestNoRoomForADeletedTopic: a tail that waits for room is told at once that there is no topic any more.
func TestNoRoomForADeletedTopic(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.room = newRoom(1<<20, time.Hour)
	taken := s.room.ask(1<<20, nil, nil)
	defer taken.give()
	m.commit("a", body(1<<20-20))
	c := s.open(t, "/v1/tail?topic=a&topic=b&start=earliest", "")
	c.opens()
	eventually(t, "the log waits", func() bool { _, waiting := s.room.left(); return waiting == 1 })
	m.delete("a")
	c.next("end")
	eventually(t, "nothing waits", func() bool { _, waiting := s.room.left(); return waiting == 0 })
}

// TestRoomIsJoinedPastTheQueue: a frame that is in memory anyway does not wait behind a large share.
func TestRoomIsJoinedPastTheQueue(t *testing.T) {
	r := newRoom(10, time.Hour)
	held := r.ask(6, nil, nil)
	waits := r.ask(6, nil, nil)
	frame := make([]byte, 4)
	first, second := r.join(frame, nil), r.join(frame, nil)
	if !waits.waits() || first == nil || second == nil {
		t.Fatal(first, second)
	}
	if r.join(make([]byte, 1), nil) != nil {
		t.Error("there is room for more than there is")
	}
	held.give()
	first.give()
	second.give()
	if waits.waits() {
		t.Error("the large one still waits")
	}
	waits.give()
	if r.free != 10 {
		t.Error(r.free)
	}
}

// TestPatience: a large share is for long enough to be read at the slowest rate, from when it is begun.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(10<<20, time.Second)
		var cut atomic.Bool
		s := r.ask(10*slowest, nil, func() { cut.Store(true) }) // 10 s, and patience
		other := r.ask(10<<20, nil, nil)
		time.Sleep(10 * time.Second)
		s.begin()
		time.Sleep(10900 * time.Millisecond)
		synctest.Wait()
		if cut.Load() {
			t.Error("it was cut off too soon")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if !cut.Load() {
			t.Error("it was not cut off")
		}
		other.give()
		s.give()
	})
}

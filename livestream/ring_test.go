package livestream

import (
	"fmt"
	"testing"

	"pipeproc/api"
)

// ringsHold answers what all rings hold, by the views and as it is counted.
func (s *server) ringsHold() (bytes, counted, rings int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rings.mu.Lock()
	defer s.rings.mu.Unlock()
	for _, f := range s.followers {
		if v := f.view.Load(); v != nil {
			for i := range v.frames {
				bytes += v.frames[i].size()
			}
		}
	}
	return bytes, s.rings.bytes, s.rings.order.Len()
}

// TestRingsAreBoundedTogether: however many topics are followed, and whatever was in their rings before, all rings hold no
// more than they may together. Who has had no news for the longest loses its ring; its readers lose nothing.
func TestRingsAreBoundedTogether(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	const most, topics = 1 << 20, 30
	s.rings.most = most
	var readers []*stream
	var sent [topics][]api.Log
	for i := range topics {
		c := s.open(t, fmt.Sprintf("/v1/tail?topic=t%d", i), "")
		c.opens()
		readers = append(readers, c)
	}
	commit := func(i int, bodies ...string) {
		t.Helper()
		logs := m.commit(fmt.Sprint("t", i), bodies...)
		sent[i] = append(sent[i], logs...)
		readers[i].logs(fmt.Sprint("t", i), logs...)
		if bytes, counted, _ := s.ringsHold(); bytes > most || counted > most {
			t.Errorf("the rings hold %d bytes, %d as they are counted", bytes, counted)
		}
	}
	for i := range topics {
		commit(i, body(100<<10))
	}
	if _, _, n := s.ringsHold(); n != 10 {
		t.Errorf("%d rings hold something", n)
	}
	if v := s.view("t0"); v.first != 1 || len(v.frames) != 0 || v.next() != 1 {
		t.Errorf("the ring of the first topic: from %d, %d frames", v.first, len(v.frames))
	}
	if v := s.view(fmt.Sprint("t", topics-1)); v.first != 0 || len(v.frames) != 1 {
		t.Errorf("the ring of the last topic: from %d, %d frames", v.first, len(v.frames))
	}
	commit(0, `[1]`)         // whose ring is empty
	commit(5, `[1]`, `[2]`)  // likewise
	commit(topics-10, `[1]`) // whose ring is the oldest
	commit(1, body(400<<10)) // which takes the place of several
	if v := s.view(fmt.Sprint("t", topics-10)); len(v.frames) != 2 {
		t.Errorf("the ring that was the oldest before its news holds %d frames", len(v.frames))
	}
	if v := s.view(fmt.Sprint("t", topics-9)); len(v.frames) != 0 {
		t.Errorf("the ring that was the oldest then holds %d frames", len(v.frames))
	}
	commit(0, body(1<<20-200)) // and the place of all
	commit(2, `[1]`)
	for i := range topics { // from the beginning, through the ring or past it
		s.open(t, fmt.Sprintf("/v1/tail?topic=t%d&start=earliest", i), "").logs(fmt.Sprint("t", i), sent[i]...)
	}
	for _, c := range readers {
		c.close()
	}
	s.Close()
	if _, counted, n := s.ringsHold(); counted != 0 || n != 0 {
		t.Errorf("%d rings of %d bytes are left without readers", n, counted)
	}
}

func (s *server) view(topic string) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.followers[topic].view.Load()
}

// TestRingsLetGoAtAnyTime: readers get each log once, in order, while the rings are let go all the time.
func TestRingsLetGoAtAnyTime(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.rings.most = 4 << 10
	const topics, rounds = 8, 60
	var readers []*stream
	for i := range topics {
		for range 3 {
			readers = append(readers, s.open(t, fmt.Sprintf("/v1/tail?topic=t%d&start=earliest", i), ""))
		}
	}
	sent := make([][]api.Log, topics)
	for n := range rounds {
		for i := range topics {
			sent[i] = append(sent[i], m.commit(fmt.Sprint("t", i), fmt.Sprintf(`[%d]`, n), body(500))...)
		}
	}
	for i, c := range readers {
		c.logs(fmt.Sprint("t", i/3), sent[i/3]...)
	}
	if bytes, counted, _ := s.ringsHold(); bytes > s.rings.most || counted > s.rings.most {
		t.Errorf("the rings hold %d bytes, %d as they are counted", bytes, counted)
	}
}

// TestMostFollowed: topics beyond the most that a server follows are refused before the stream begins, with all that their
// tails asked for; those that are followed already are not.
func TestMostFollowed(t *testing.T) {
	m := newMemory()
	s := newServer(t, m)
	s.mostFollowed = 3
	one := s.open(t, "/v1/tail?topic=a&topic=b", "")
	for _, path := range []string{"/v1/tail?topic=c&topic=d", "/v1/tail?topic=a&topic=c&topic=b&topic=d"} {
		s.refused(t, path, "", 503, api.CodeOverloaded)
	}
	two := s.open(t, "/v1/tail?topic=b&topic=a&topic=c", "")
	s.refused(t, "/v1/tail?topic=d", "", 503, api.CodeOverloaded)
	one.close()
	two.opens()
	two.logs("c", m.fill("c", 1)...)
	two.close()
	eventually(t, "nothing is followed", func() bool { return s.Stats() == Stats{} })
	s.open(t, "/v1/tail?topic=d&topic=e&topic=f", "").opens()

	if _, err := s.follow("g", nil); api.CodeOf(err) != api.CodeOverloaded || err.(*api.Error).RetryAfter <= 0 {
		t.Errorf("when to come again is not told: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range []string{"d", "e", "f"} {
		if s.followers[topic] == nil {
			t.Errorf("%s is not followed", topic)
		}
	}
	if len(s.followers) != 3 {
		t.Errorf("%d topics are followed", len(s.followers))
	}
}

package livestream

import (
	"context"
	"maps"
	"slices"
	"time"

	"pipeproc/api"
)

// leases are the open streams of liveProcs. One loop renews the leases of them all, however slowly their clients read; it
// runs while there are any.
type leases struct {
	streams map[api.Stream]struct{}
	stop    context.CancelFunc // of the loop
}

// lease has the lease of a stream renewed until release is called.
func (s *Streams) lease(stream api.Stream) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases.streams[stream] = struct{}{}
	if len(s.leases.streams) == 1 {
		var ctx context.Context
		ctx, s.leases.stop = context.WithCancel(s.ctx)
		s.open.Go(func() { s.renew(ctx) })
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leases.streams, stream)
		if len(s.leases.streams) == 0 {
			s.leases.stop()
		}
	}
}

// renew renews the leases again and again. Whether its liveProc still wants a stream, the stream's next turn tells.
func (s *Streams) renew(ctx context.Context) {
	var tries backoff
	timer := time.NewTimer(s.renewal)
	defer timer.Stop()
	s.Leases.Start()
	defer s.Leases.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begun := time.Now()
		s.Leases.Begin()
		err := s.renewOnce(ctx)
		s.Leases.End()
		if err == nil {
			tries.reset()
			timer.Reset(s.renewal - time.Since(begun))
		} else {
			d, first := tries.next()
			if first && ctx.Err() == nil {
				s.Logger.Warn("leases of liveProcs' streams not renewed", "err", err)
			}
			timer.Reset(d)
		}
	}
}

func (s *Streams) renewOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.mu.Lock()
	streams := slices.Collect(maps.Keys(s.leases.streams))
	s.mu.Unlock()
	return s.LiveProcs.KeepStreams(ctx, streams)
}

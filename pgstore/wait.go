package pgstore

import (
	"context"
	"slices"
	"time"

	"pipeproc/api"
)

// Wait implements api.Procs.
func (s *Store) Wait(ctx context.Context, req api.WaitRequest) (api.Waited, error) {
	timeout := int64(api.DefaultWaitTimeout)
	if req.Timeout != nil {
		timeout = *req.Timeout
	}
	deadline := time.Now().Add(time.Duration(timeout) * time.Millisecond)
	var watch api.Watch
	var watched []string
	defer func() {
		if watch.C != nil {
			watch.Close()
		}
	}()
	for {
		waited, err := s.lags(ctx, &req)
		if err != nil || waited.Done || !time.Now().Before(deadline) {
			return waited, err
		}
		names := make([]string, len(waited.Procs))
		for i, p := range waited.Procs {
			names[i] = p.Name
		}
		if watch.C == nil || !slices.Equal(names, watched) { // subscribe, then look once more
			if watch.C != nil {
				watch.Close()
			}
			watch, watched = s.Watch(nil, names), names
			continue
		}
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-watch.C:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return api.Waited{}, ctx.Err()
		}
		timer.Stop()
		select { // busy procs give a hint with every ack
		case <-time.After(waitGap):
		case <-ctx.Done():
			return api.Waited{}, ctx.Err()
		}
	}
}

// waitGap is the least time from a hint to the look that follows it: many hints come to one look.
const waitGap = 5 * time.Millisecond

// lags answers the lag of each proc, and whether all have what is waited for, at one instant: that of the one statement.
func (s *Store) lags(ctx context.Context, req *api.WaitRequest) (api.Waited, error) {
	w := api.Waited{Done: true, Procs: []api.ProcLag{}}
	names := req.Names()
	all := names == nil
	rows, err := s.readProcs(ctx, s.pool, "($1 OR p.name = ANY($2)) ORDER BY p.name", all, names)
	if err != nil {
		return w, mapError(err)
	}
	procs := map[string]*procRow{}
	wanted := names
	for _, p := range rows {
		procs[p.Name] = p
		if all && p.Status == api.StatusActive {
			wanted = append(wanted, p.Name)
		}
	}
	for _, name := range wanted {
		p := procs[name]
		if p == nil {
			return w, unknownProc(name)
		}
		if p.Status == api.StatusDisabled {
			return w, api.Errorf(api.CodeProcIsDisabled, "proc %q is disabled: it would never complete", name)
		}
		w.Procs = append(w.Procs, api.ProcLag{Name: name, Lag: p.Lag})
		w.Done = w.Done && req.Met(&p.Proc)
	}
	return w, nil
}

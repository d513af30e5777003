package httpapi

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"pipeproc/api"
)

// The silent ones do not answer.
type (
	silentLogs   struct{ logs }
	silentTopics struct{ topics }
	silentProcs  struct{ procs }
)

func never(ctx context.Context) error {
	<-ctx.Done()
	return api.Errorf(api.CodeUnavailable, "%v", ctx.Err())
}

func (silentLogs) Range(ctx context.Context, _ string, _ api.RangeQuery) (api.Page, error) {
	return api.Page{}, never(ctx)
}
func (silentLogs) Resolve(ctx context.Context, _ string, _ api.RangeQuery) (api.Run, error) {
	return api.Run{}, never(ctx)
}
func (silentTopics) Topic(ctx context.Context, _ string) (api.Topic, error) {
	return api.Topic{}, never(ctx)
}
func (silentProcs) Procs(ctx context.Context, _ api.ProcQuery) (api.ProcList, error) {
	return api.ProcList{}, never(ctx)
}
func (silentProcs) Wait(ctx context.Context, _ api.WaitRequest) (api.Waited, error) {
	return api.Waited{}, never(ctx)
}

// TestSilentStore holds that nobody waits without end for a store that does not answer.
func TestSilentStore(t *testing.T) {
	for _, c := range []struct {
		method, path, body, accept string
		after                      time.Duration
	}{
		{"GET", "/v1/topics/t", "", "*/*", storeTimeout},
		{"HEAD", "/v1/topics/t", "", "*/*", storeTimeout},
		{"GET", "/v1/topics/t/logs", "", "*/*", storeTimeout},
		{"GET", "/v1/topics/t/logs", "", "application/x-ndjson", storeTimeout},
		{"GET", "/v1/procs", "", "*/*", storeTimeout},
		{"POST", "/v1/wait", "", "*/*", storeTimeout + api.DefaultWaitTimeout*time.Millisecond},
		{"POST", "/v1/wait", `{"timeout":0}`, "*/*", storeTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Config{Logs: silentLogs{}, Topics: silentTopics{}, Procs: silentProcs{}, Streams: streams(nil)})
			begun := time.Now()
			a := call(t, s, c.method, c.path, c.body, "Accept: "+c.accept)
			if took := time.Since(begun); a.status != 503 || took != c.after {
				t.Errorf("%s %s, %s: %d after %v, want %v", c.method, c.path, c.accept, a.status, took, c.after)
			}
		})
	}
}

// TestMostRequests holds that so many requests are under way at a time, and that those which ask how the server is doing are
// answered all the same.
func TestMostRequests(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{})
	s := New(Config{Topics: topics{topic: func(name string) (api.Topic, error) {
		if name == "slow" {
			entered <- struct{}{}
			<-release
		}
		return api.Topic{}, nil
	}}})
	s.requests.most = 1
	ended := make(chan answered)
	go func() { ended <- call(t, s, "GET", "/v1/topics/slow", "") }()
	<-entered
	a := call(t, s, "GET", "/v1/topics/t", "")
	a.wantsProblem(t, 503, api.CodeOverloaded)
	if a.header.Get("Retry-After") == "" {
		t.Error("when to come again is not told")
	}
	if a := call(t, s, "GET", "/healthz", ""); a.status != 200 {
		t.Errorf("/healthz: %d", a.status)
	}
	close(release)
	if a := <-ended; a.status != 200 {
		t.Errorf("the one under way: %d", a.status)
	}
	if a := call(t, s, "GET", "/v1/topics/t", ""); a.status != 200 {
		t.Errorf("the next one: %d", a.status)
	}
	if n := s.requests.held.Load(); n != 0 {
		t.Errorf("%d are under way", n)
	}
}

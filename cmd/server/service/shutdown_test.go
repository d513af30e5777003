package service

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"pipeproc/pgstore/pgtest"
)

// Whatever a server is at when it is told to stop, nothing of it goes on after Run has returned.
func TestNothingOutlivesTheServer(t *testing.T) {
	c := DefaultConfig()
	c.Listen = []string{"127.0.0.1:0"}
	c.DatabaseURL, c.UnsafeDurability, c.Logger = pgtest.Database(t), true, pgtest.Logger()
	c.GC, c.GCInterval = true, 10
	called, answer := make(chan struct{}, 1), make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called <- struct{}{}
		<-answer
	}))
	defer hook.Close()
	before := goleak.IgnoreCurrent() // the test's own
	s, stop := run(t, c)
	url := s.URLs()[0]
	client := &http.Client{Transport: &http.Transport{}}
	send := func(method, path, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if strings.Contains(path, "/logs") {
			req.Header.Set("Accept", "application/x-ndjson")
		}
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return nil
		}
		if res.StatusCode > 299 && !strings.Contains(body, "wait") { // which the stop ends
			t.Errorf("%s %s: %s", method, path, res.Status)
		}
		return res
	}
	done := func(res *http.Response) { res.Body.Close() }
	done(send("POST", "/v1/system-procs", `{"name":"sp","from":"t","processor":`+fmt.Sprintf("%q", hook.URL)+`}`))
	done(send("POST", "/v1/commit", `{"topic":"t","body":{}}`))
	<-called // a processor is at work

	var streams []*http.Response
	for _, path := range []string{"/v1/tail?topic=t", "/v1/topics/t/live"} { // streams that have begun
		res := send("GET", path, "")
		streams = append(streams, res)
		if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
			t.Errorf("%s: %q, %v", path, line, err)
		}
	}
	streams = append(streams, send("GET", "/v1/topics/t/logs", "")) // lines that nobody reads
	var waiting sync.WaitGroup
	waiting.Go(func() { // logs that do not come
		if res := send("POST", "/v1/procs/p/claim", `{"topic":"nothing","wait":60000}`); res != nil {
			res.Body.Close()
		}
	})
	for waits := false; !waits; { // it has made its proc
		res, err := client.Get(url + "/v1/procs/p")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		waits = res.StatusCode == http.StatusOK
	}

	close(answer)
	stop()
	waiting.Wait()
	for _, res := range streams { // the client's ends
		res.Body.Close()
	}
	hook.Close()
	client.CloseIdleConnections()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

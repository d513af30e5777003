package httpapi

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"pipeproc/api"
)

var healthy = health(func(context.Context) error { return nil })

// serve starts a real server.
func serve(t *testing.T, s http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

func send1(t *testing.T, server *httptest.Server, method, path string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// counted is the number of requests counted for a route, method and status.
func counted(t *testing.T, s *Server, route, method, status string) float64 {
	t.Helper()
	return metric(t, s.Metrics, "pipeproc_http_requests_total", map[string]string{"route": route, "method": method, "status": status})
}

func metric(t *testing.T, g prometheus.Gatherer, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	next:
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if want, ok := labels[label.GetName()]; ok && want != label.GetValue() {
					continue next
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

func TestMetrics(t *testing.T) {
	s := failing(api.Errorf(api.CodeInvalidTopic, "unknown"))
	call(t, s, "GET", "/v1/topics/one", "")
	call(t, s, "GET", "/v1/topics/two", "")
	call(t, s, "GET", "/nowhere/one", "")
	call(t, s, "BREW", "/nowhere/two", "")
	call(t, s, "GET", "/healthz", "")
	for _, c := range []struct {
		route, method, status string
		want                  float64
	}{
		{"/v1/topics/{topic}", "GET", "404", 2},
		{"none", "GET", "404", 1},
		{"none", "other", "404", 1},
		{"/healthz", "GET", "200", 1},
	} {
		if got := counted(t, s, c.route, c.method, c.status); got != c.want {
			t.Errorf("%+v: counted %v", c, got)
		}
	}
	if got := metric(t, s.Metrics, "pipeproc_http_problems_total", map[string]string{"code": "invalid_topic"}); got != 2 {
		t.Errorf("counted %v problems", got)
	}
	a := call(t, s, "GET", "/metrics", "", "Accept-Encoding: gzip")
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") ||
		!strings.Contains(a.body, `pipeproc_http_requests_total{method="GET",route="/healthz",status="200"} 1`) ||
		!strings.Contains(a.body, `pipeproc_http_request_duration_seconds_bucket{`) {
		t.Errorf("%d %v\n%s", a.status, a.header, a.body)
	}
}

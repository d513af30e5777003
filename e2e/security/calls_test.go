//go:build security && linux

package security

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answer is what a request was answered.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   string
}

// call makes a request at the server's address, with the server's key if it has one, and further headers, name by value. A
// body is JSON unless they say otherwise.
func (s *server) call(method, path, body string, headers ...string) *answer {
	s.t.Helper()
	return s.callBy(s.straight, method, path, body, headers...)
}

// get is call of GET without a body.
func (s *server) get(path string, headers ...string) *answer {
	s.t.Helper()
	return s.call("GET", path, "", headers...)
}

// callBy is call through another client.
func (s *server) callBy(c *http.Client, method, path, body string, headers ...string) *answer {
	s.t.Helper()
	a, err := s.try(c, method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// try is callBy that may fail; it may be called from any goroutine. A header Host is the request's; one that is empty is left out,
// the key's as well.
func (s *server) try(c *http.Client, method, path, body string, headers ...string) (*answer, error) {
	base := s.url
	if c == s.aside {
		base = "http://localhost"
	}
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	for i := 0; i < len(headers); i += 2 {
		switch {
		case headers[i+1] == "":
			req.Header.Del(headers[i])
		case headers[i] == "Host":
			req.Host = headers[i+1]
		default:
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return &answer{s.t, method + " " + path, res.StatusCode, res.Header, string(text)}, err
}

// is holds that the answer has this status.
func (a *answer) is(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Errorf("%.200s: %d %.500s, want %d", a.what, a.status, a.body, status)
	}
	return a
}

// problem is the code of the problem that the answer is, "" where it is none, or none as it should be.
func (a *answer) problem() string {
	var p struct {
		Type, Title, Detail, Code string
		Status                    int
	}
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || media != "application/problem+json" || p.Status != a.status ||
		p.Type != "urn:pipeproc:problem:"+p.Code || p.Title == "" || p.Detail == "" {
		return ""
	}
	return p.Code
}

// isProblem holds that the answer is a problem with this code.
func (a *answer) isProblem(status int, code string) *answer {
	a.t.Helper()
	if a.status != status || a.problem() != code {
		a.t.Errorf("%.200s: %d %s %.500s, want the problem %d %s", a.what, a.status, a.header.Get("Content-Type"), a.body, status, code)
	}
	return a
}

// into reads the answer, which is JSON.
func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		a.t.Fatalf("%.200s: %d %.500s: %v", a.what, a.status, a.body, err)
	}
}

// state is all the data that the server can be asked for, but for the bystander's topic and those in but.
func (s *server) state(but ...string) string {
	s.t.Helper()
	ask := func(path string) *answer { return s.callBy(s.aside, "GET", path, "").is(http.StatusOK) }
	var all strings.Builder
	var listed struct{ Topics []struct{ Name string } }
	ask("/v1/topics?limit=1000").into(&listed)
	for _, topic := range listed.Topics {
		if topic.Name != bystandersTopic && !slices.Contains(but, topic.Name) {
			all.WriteString(ask("/v1/topics/" + topic.Name).body)
			all.WriteString(ask("/v1/topics/" + topic.Name + "/logs?limit=10000").body)
		}
	}
	for _, path := range []string{"/v1/procs?limit=1000", "/v1/system-procs?limit=1000"} {
		all.WriteString(ask(path).body)
	}
	return all.String()
}

// unchanged holds that the state, but for these topics, is what it was.
func (s *server) unchanged(before string, but ...string) {
	s.t.Helper()
	if diff := cmp.Diff(before, s.state(but...)); diff != "" {
		s.t.Errorf("something changed (-before +after):\n%.4000s", diff)
	}
}

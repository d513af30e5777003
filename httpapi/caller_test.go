package httpapi

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"pipeproc/api"
)

func TestRequestID(t *testing.T) {
	s := failing(api.Errorf(api.CodeInvalidTopic, "unknown"))
	for _, sane := range []string{"a", "01J-x_y.z:7/8+9=@~", strings.Repeat("x", 128)} {
		a := call(t, s, "GET", "/v1/topics/t", "", "X-Request-Id: "+sane)
		if got := a.header.Get("X-Request-Id"); got != sane || !strings.Contains(a.body, `"requestId":"`+sane+`"`) {
			t.Errorf("sent %q, told %q: %s", sane, got, a.body)
		}
	}
	seen := map[string]bool{}
	for _, odd := range []string{"", "a b", "a\"b", "a\x00b", "ä", strings.Repeat("x", 129), "a\nb"} {
		r := request("GET", "/v1/topics/t", "")
		r.Header["X-Request-Id"] = []string{odd}
		got := do(t, s, r).header.Get("X-Request-Id")
		if got == odd || got == "" || seen[got] {
			t.Errorf("sent %q, told %q", odd, got)
		}
		seen[got] = true
	}
}

func TestClient(t *testing.T) {
	p := Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for _, c := range []struct {
		remote string
		told   []string
		want   string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.7"}, "192.0.2.1"}, // not a proxy
		{"10.0.0.1:5", nil, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7"}, "198.51.100.7"},
		{"[::ffff:10.0.0.1]:5", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"1.1.1.1, 198.51.100.7"}, "198.51.100.7"}, // what it sent itself is not believed
		{"10.0.0.1:5", []string{"1.1.1.1", "198.51.100.7, 10.9.9.9,10.8.8.8"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"10.1.1.1, 10.2.2.2"}, "10.1.1.1"}, // proxies all the way
		{"10.0.0.1:5", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"unknown, 10.2.2.2"}, "10.2.2.2"},
		{"10.0.0.1:5", []string{""}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		{"[fd00::1%eth0]:5", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"10.0.0.1:5", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"@", []string{"198.51.100.7"}, "invalid IP"},
	} {
		r := request("GET", "/", "")
		r.RemoteAddr = c.remote
		for _, v := range c.told {
			r.Header.Add("X-Forwarded-For", v)
		}
		if got := p.client(r).String(); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.remote, c.told, got, c.want)
		}
	}
	p.UnixSockets = true
	r := request("GET", "/", "", "X-Forwarded-For: 198.51.100.7")
	r.RemoteAddr = "@"
	if got := p.client(r).String(); got != "198.51.100.7" {
		t.Errorf("a proxy at a Unix socket: %s", got)
	}
}

// TestLineOfEachRequest holds that there is a line for each request: where it goes well, and where it does not.
func TestLineOfEachRequest(t *testing.T) {
	for err, want := range map[error]string{
		nil:                                     "level=DEBUG msg=request ",
		api.Errorf(api.CodeInvalidTopic, "why"): "level=INFO msg=request ",
		api.Errorf(api.CodeOverloaded, "why"):   "level=WARN msg=request ",
		api.Errorf(api.CodeInternal, "why"):     "level=ERROR msg=request ",
	} {
		var log bytes.Buffer
		s := failing(err)
		if err == nil {
			s = New(Config{Topics: topics{topic: func(string) (api.Topic, error) { return api.Topic{}, nil }}})
		}
		s.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		call(t, s, "GET", "/v1/topics/t", "", "X-Request-Id: its-name")
		line := log.String()
		if strings.Count(line, "\n") != 1 || !strings.Contains(line, want) || !strings.Contains(line, "request=its-name address=192.0.2.1") ||
			err != nil && !strings.Contains(line, "why") {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// TestLinesOfTheLogCannotBeForged holds that one request is one line, whatever it is made of, as text and as JSON.
func TestLinesOfTheLogCannotBeForged(t *testing.T) {
	for _, json := range []bool{false, true} {
		var log bytes.Buffer
		s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if json {
			s.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		}
		call(t, s, "GET", "/v1/topics/%0Alevel=ERROR%20msg=audit%1b%5B2J%E2%80%A8%22", "", "X-Request-Id: a\nlevel=ERROR", "User-Agent: \x1b[2J")
		line := log.String()
		if strings.Count(line, "\n") != 1 || strings.ContainsAny(line, "\x1b\u2028") || strings.HasPrefix(line, "level=ERROR") {
			t.Errorf("%q", line)
		}
	}
}

func TestAudit(t *testing.T) {
	var log bytes.Buffer
	refused := false
	one := func(string, string) (api.Proc, error) { return api.Proc{}, nil }
	s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Topics: topics{remove: func(string, bool) error {
		if refused {
			return api.Errorf(api.CodeTopicInUse, "in use")
		}
		return nil
	}}, Procs: procs{one: one}, LiveProcs: liveProcs{one: one}, Shutdown: func() {}, SystemProcs: systemProcs{
		one: func(string, string) (api.SystemProc, error) { return api.SystemProc{}, nil },
		rotate: func(string, api.SecretRotation) (api.RotatedSecret, error) {
			return api.RotatedSecret{Secret: "s3cr3t"}, nil
		},
	}})
	for _, c := range []struct{ method, path, want string }{
		{"DELETE", "/v1/topics/t", `action="delete topic" target=t`},
		{"DELETE", "/v1/procs/p", `action="destroy proc" target=p`},
		{"POST", "/v1/procs/p/disable", `action="disable proc" target=p`},
		{"POST", "/v1/procs/p/resume", `action="resume proc" target=p`},
		{"DELETE", "/v1/system-procs/s", `action="destroy systemProc" target=s`},
		{"POST", "/v1/system-procs/s/rotate-secret", `action="rotate secret" target=s`},
		{"DELETE", "/v1/live-procs/l", `action="destroy liveProc" target=l`},
		{"POST", "/v1/live-procs/l/cancel", `action="cancel liveProc" target=l`},
		{"POST", "/v1/shutdown", `action="shut down"`},
	} {
		log.Reset()
		call(t, s, c.method, c.path, "", "X-Request-Id: its-name")
		if line := log.String(); !strings.Contains(line, "level=INFO msg=audit "+c.want+" request=its-name address=192.0.2.1") {
			t.Errorf("%s %s: %s", c.method, c.path, line)
		}
	}
	log.Reset()
	refused = true
	call(t, s, "DELETE", "/v1/topics/t", "")
	if strings.Contains(log.String(), "audit") {
		t.Error("what was refused is told as done: ", log.String())
	}
}

package httpapi

import (
	"net/http"
	"strings"
	"testing"
)

func TestAccepted(t *testing.T) {
	for accept, want := range map[string]string{
		"": asPage, "*/*": asPage, "application/json": asPage, "application/*": asPage,
		asLines: asLines, asEvents: asEvents, "Application/X-NDJSON": asLines, asLines + "; charset=utf-8": asLines,

		// what programs send by themselves
		"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8": asPage, // a browser's address line
		"application/json, text/plain, */*":                                                     asPage, // axios
		"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2":                                  asPage, // Java
		"text/event-stream, */*;q=0.1":                                                          asEvents,
		"application/x-ndjson, application/json;q=0.5":                                          asLines,
		"application/json;q=0.5, application/x-ndjson;q=0.4":                                    asPage,
		"application/json;q=0.4 , application/x-ndjson ; q=0.5":                                 asLines,
		"text/event-stream;q=0.9, application/x-ndjson;q=0.95, */*":                             asPage,
		"text/event-stream;q=0.9, application/x-ndjson;q=0.95":                                  asLines,
		"text/event-stream;q=0.96, application/x-ndjson;q=0.95":                                 asEvents,
		"application/json;q=0.1, */*;q=1, text/event-stream;q=0.5":                              asEvents, // the closest range counts
		"*/*;q=1, application/*;q=0.2, application/x-ndjson;q=0.5":                              asLines,
		"application/*;q=0.6, */*;q=0.1, application/x-ndjson;q=0.5":                            asPage,

		// of equal weights: what is named before a wildcard, then a page
		"application/json, application/x-ndjson, text/event-stream": asPage,
		"text/event-stream, application/x-ndjson":                   asLines,
		"application/x-ndjson, */*":                                 asLines,
		"*/*, text/event-stream":                                    asEvents,
		"application/*;q=0.5, text/event-stream;q=0.5":              asEvents,

		// none of the three
		"text/html": asPage, "text/*": asPage, "application/x-ndjson;q=0": asPage, "text/event-stream;q=0.0, text/html": asPage,
		"application/json;q=0": asPage, "application/json;q=0, */*": asPage, "text/event-stream;q=0, */*": asPage,

		// nonsense
		"text/event-stream;q=2": asPage, "text/event-stream;q=x": asPage, "text/event-stream;q=-1": asPage, "text/event-stream;q=NaN": asPage,
		",,;": asPage, "text/event-stream/x": asPage, "bad range, application/x-ndjson": asLines,
	} {
		if got := accepted(request("GET", "/", "", "Accept: "+accept)); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
	r := request("GET", "/", "", "Accept: application/json;q=0.5", "Accept: application/x-ndjson")
	if got := accepted(r); got != asLines {
		t.Errorf("two headers: %s", got)
	}
	r.ProtoMajor, r.ProtoMinor = 1, 0
	if got := accepted(r); got != asPage {
		t.Errorf("HTTP/1.0: %s", got)
	}
	r.Header.Set("Accept", asEvents)
	if got := accepted(r); got != asEvents {
		t.Errorf("events in HTTP/1.0: %s", got)
	}
}

// The form decides which parameters a range takes, and who answers.
func TestFormsOfARange(t *testing.T) {
	s := New(Config{
		Streams: streams(func(what string, w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", what+" of "+r.PathValue("topic"))
			w.WriteHeader(http.StatusOK)
			return nil
		}),
		Logs: fake{n: 3}.logs(),
	})
	for _, c := range []struct {
		query, accept, want string // Content-Type; "" is a 400
	}{
		{"", "", asPage},
		{"?start=:0&end=:1&limit=5&exclusive=true&direction=reverse", "", asPage},
		{"?lastEventId=x", "", ""},
		{"?limit=10001", "", ""},

		{"", asLines, asLines},
		{"?start=:0&end=:1&limit=5&exclusive=true&direction=reverse", asLines, asLines},
		{"?limit=9223372036854775807", asLines, asLines},
		{"?lastEventId=x", asLines, ""},
		{"?limit=0", asLines, ""},
		{"?limit=-2", asLines, ""},
		{"?limit=9223372036854775808", asLines, ""},
		{"?direction=up", asLines, ""},

		{"", asEvents, "tail of t"},
		{"?start=earliest&lastEventId=x", asEvents, "tail of t"},
		{"?end=:1", asEvents, ""},
		{"?limit=1", asEvents, ""},
		{"?exclusive=false", asEvents, ""},
		{"?direction=forward", asEvents, ""},
		{"?topic=t", asEvents, ""},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			a := call(t, s, method, "/v1/topics/t/logs"+c.query, "", "Accept: "+c.accept)
			if a.header.Get("Vary") != "Accept" && !strings.Contains(c.query, "topic=") {
				t.Errorf("%s %s: Vary is %q", c.query, c.accept, a.header.Get("Vary"))
			}
			if c.want == "" {
				a.wantsProblem(t, 400, "invalid_request")
			} else if got := a.header.Get("Content-Type"); got != c.want || a.status != 200 {
				t.Errorf("%s %s: %d %s", c.query, c.accept, a.status, got)
			}
		}
	}
}

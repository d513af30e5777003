//go:build security && linux

package security

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// last is sent after each shape: it is answered where the connection still is what both sides think it is.
const last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// post is a commit to a topic, with further lines of header before its body, whose length it tells unless they do.
func post(topic, body string, lines ...string) string {
	if !slices.ContainsFunc(lines, func(l string) bool {
		l = strings.ToLower(l)
		return strings.Contains(l, "content-length") || strings.Contains(l, "transfer-encoding")
	}) {
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return "POST /v1/topics/" + topic + "/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		strings.Join(append(lines, ""), "\r\n") + "\r\n" + body
}

// TestSmuggling: where a request ends is said once and clearly, or it is the last one of its connection. What is in a body is
// never taken for a request, what comes after one never for its body; the logs that were committed prove it.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	s := launch(t)
	second := post("second", `{"n":2}`)
	const te, chunks = "Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n"
	get := func(lines ...string) string {
		return "GET /healthz HTTP/1.1\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
	}
	type shape struct {
		sent          string
		statuses      string // of the answers, in order, see answeredAs
		first, second int    // commits
	}
	shapes := map[string]shape{
		// What is clear is served, one after the other.
		"two in a row":           {post("first", `{}`) + second, "201 201 200", 1, 1},
		"ten in a row":           {strings.Repeat(second, 10), strings.Repeat("201 ", 10) + "200", 0, 10},
		"chunked":                {post("first", chunks, te) + second, "201 201 200", 1, 1},
		"in upper case":          {post("first", chunks, "TRANSFER-ENCODING: CHUNKED") + second, "201 201 200", 1, 1},
		"a chunk's extension":    {post("first", "2;a=b\r\n{}\r\n0\r\n\r\n", te) + second, "201 201 200", 1, 1},
		"zeros before a size":    {post("first", "0002\r\n{}\r\n0\r\n\r\n", te) + second, "201 201 200", 1, 1},
		"the same length twice":  {post("first", `{}`, "Content-Length: 2", "Content-Length: 2") + second, "201 201 200", 1, 1},
		"an underscore":          {post("first", `{}`, "Content-Length: 2", "Transfer_Encoding: chunked") + second, "201 201 200", 1, 1},
		"a length between hops":  {post("first", `{}`, "Content-Length: 2", "Connection: Content-Length") + second, "201 201 200", 1, 1},
		"framing in trailers":    {post("first", "2\r\n{}\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: x\r\n\r\n", te) + second, "201 201 200 or 400", 1, 1},
		"another method by name": {get("Host: localhost", "X-HTTP-Method-Override: DELETE") + second, "200 201 200", 0, 1},
		"closed by the client":   {post("first", `{}`, "Connection: close") + second, "201", 1, 0},

		// Requests in bodies.
		"in a body":                  {post("first", second), "400 200", 0, 0},
		"in a body after JSON":       {post("first", "{}"+second), "400 200", 0, 0},
		"in a body of GET":           {get("Host: localhost", fmt.Sprintf("Content-Length: %d", len(second))) + second, "200 200", 0, 0},
		"in a chunked body of GET":   {get("Host: localhost", te) + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(second), second), "200 200", 0, 0},
		"in a large body of GET":     {get("Host: localhost", fmt.Sprintf("Content-Length: %d", 12_000*len(second))) + strings.Repeat(second, 12_000), "413 200 or 413", 0, 0},
		"in a body to nowhere":       {"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n" + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(second)) + second, "404 200", 0, 0},
		"in a body of another type":  {strings.Replace(post("first", second), "application/json", "text/plain", 1), "415 200", 0, 0},
		"in a body that is too long": {post("first", strings.Repeat(second, 17_000_000/len(second))), "413 200 or 413", 0, 0},
		"in a chunk that is more":    {post("first", "2\r\n{}"+second+"\r\n0\r\n\r\n", te), "400", 0, 0},
		"in an extension":            {post("first", "2;"+strings.ReplaceAll(second, "\r\n", " ")+"\r\n{}\r\n0\r\n\r\n", te), "201 200 or 400", 1, 0},
		"in a header":                {get("Host: localhost", "X-A: "+strings.ReplaceAll(second, "\r\n", " ")), "200 200", 0, 0},
		"more than the length":       {post("first", `{}{"n":3}`, "Content-Length: 2"), "201 400", 1, 0},
		"less than the length":       {post("first", `{}`, fmt.Sprintf("Content-Length: %d", 2+len(second))) + second, "400 200", 0, 0},

		// Both: the chunks count, which leaves nothing open to those who read only what was refused.
		"a length and chunks":   {post("first", chunks, "Content-Length: 100", te) + second, "201 201 200 or 400", 1, 1},
		"chunks and a length":   {post("first", chunks, te, "Content-Length: 2") + second, "201 201 200 or 400", 1, 1},
		"a folded encoding":     {post("first", chunks, "Transfer-Encoding:", " chunked") + second, "201 201 200 or 400", 1, 1},
		"a line's end by LF":    {post("first", chunks, "X-A: b\nTransfer-Encoding: chunked") + second, "201 201 200 or 400", 1, 1},
		"a head's end by LF":    {strings.ReplaceAll(get("Host: localhost"), "\r\n", "\n") + second, "200 201 200 or 400", 0, 1},
		"Host twice in a row":   {get("Host: localhost", "Host: localhost") + second, "400", 0, 0},
		"another host by URL":   {"GET http://other.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + second, "403 201 200", 0, 1},
		"our host by URL":       {"GET http://localhost/healthz HTTP/1.1\r\nHost: other.example\r\n\r\n" + second, "200 201 200", 0, 1},
		"a tunnel":              {"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + second, "404|405 201 200", 0, 1},
		"an upgrade to h2c":     {get("Host: localhost", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__") + second, "200 201 200", 0, 1},
		"an upgrade with body":  {post("first", `{}`, "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2") + second, "201 201 200", 1, 1},
		"an upgrade to sockets": {get("Host: localhost", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13") + second, "200 201 200", 0, 1},
		"HTTP/2 without TLS":    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + second, "400|404|505", 0, 0},
		"HTTP/0.9":              {"GET /healthz\r\n" + second, "400", 0, 0},
		"HTTP/2.0 by its line":  {strings.Replace(post("first", "{}"), "1.1", "2.0", 1) + second, "400|505", 0, 0},
		"HTTP/3.7 by its line":  {strings.Replace(post("first", "{}"), "1.1", "3.7", 1) + second, "400|505", 0, 0},
		"HTTP/1.0 with chunks": {strings.Replace(post("first", chunks, te, "Connection: keep-alive"), "1.1", "1.0", 1) + second,
			"400 400 or 400", 0, 0},
		"HTTP/1.0 with a length and chunks": {strings.Replace(post("first", `{}`, te, "Content-Length: 2", "Connection: keep-alive"), "1.1", "1.0", 1) + second,
			"201 201 200 or 400", 1, 1},
	}
	// What is not clear is refused, and ends the connection.
	for name, lines := range map[string][]string{
		"two lengths":            {"Content-Length: 2", "Content-Length: 3"},
		"two lengths by case":    {"Content-Length: 2", "content-length: 100"},
		"lengths in a list":      {"Content-Length: 2, 2"},
		"a length with a sign":   {"Content-Length: +2"},
		"a negative length":      {"Content-Length: -2"},
		"a hexadecimal length":   {"Content-Length: 0x2"},
		"a length with a letter": {"Content-Length: 2a"},
		"a length of two words":  {"Content-Length: 2 2"},
		"a fraction":             {"Content-Length: 2.0"},
		"no length at all":       {"Content-Length: "},
		"too great a length":     {"Content-Length: 18446744073709551618"},
		"a folded length":        {"Content-Length: 2", "\tX: y"},
		"a space before a colon": {"Content-Length : 2"},
		"the same, of TE":        {"Transfer-Encoding : chunked"},
		"a tab before a colon":   {"Transfer-Encoding\t: chunked"},
		"a CR in a value":        {"X-A: b\rTransfer-Encoding: chunked", "Content-Length: 2"},
		"a NUL in a value":       {"X-A: b\x00", "Content-Length: 2"},
		"a NUL in a name":        {"X\x00A: b", "Content-Length: 2"},
		"a line without a colon": {"chunked", "Content-Length: 2"},
		"a name of nothing":      {": chunked", "Content-Length: 2"},
		"another encoding":       {"Transfer-Encoding: gzip"},
		"two encodings":          {"Transfer-Encoding: gzip, chunked"},
		"the other way round":    {"Transfer-Encoding: chunked, gzip"},
		"identity":               {"Transfer-Encoding: identity", "Content-Length: 2"},
		"nearly chunked":         {"Transfer-Encoding: xchunked"},
		"chunked, quoted":        {"Transfer-Encoding: \"chunked\""},
		"chunked with a value":   {"Transfer-Encoding: chunked;q=1"},
		"chunked twice":          {"Transfer-Encoding: chunked, chunked"},
		"chunked by two lines":   {te, te},
		"identity and chunked":   {"Transfer-Encoding: identity", te},
		"chunked and nothing":    {te, "Transfer-Encoding: "},
		"VT before chunked":      {"Transfer-Encoding: \x0bchunked"},
		"no encoding at all":     {"Transfer-Encoding: ", "Content-Length: 2"},
	} {
		for how, body := range map[string]string{"": "{}", ", in chunks": chunks} {
			shapes[name+how] = shape{post("first", body, lines...) + second, "400|501", 0, 0}
		}
	}
	for name, body := range map[string]string{
		"a hexadecimal size":    "0x2\r\n{}\r\n0\r\n\r\n",
		"a size with a sign":    "+2\r\n{}\r\n0\r\n\r\n",
		"a negative size":       "-2\r\n{}\r\n0\r\n\r\n",
		"too great a size":      "fffffffffffffffff2\r\n{}\r\n0\r\n\r\n",
		"a size that overflows": "10000000000000002\r\n{}\r\n0\r\n\r\n",
		"no size":               "\r\n{}\r\n0\r\n\r\n",
		"a size of letters":     "zz\r\n{}\r\n0\r\n\r\n",
		"chunks by LF":          "2\n{}\n0\n\n",
		"an extension by LF":    "2;a\nb\r\n{}\r\n0\r\n\r\n",
		"no end of a chunk":     "2\r\n{}0\r\n\r\n",
		"another end":           "2\r\n{}xx0\r\n\r\n",
		"a CR in a size":        "2\r2\r\n{}\r\n0\r\n\r\n",
	} {
		shapes[name] = shape{post("first", body, te) + second, "400", 0, 0}
	}
	for name, line := range map[string]string{
		"two spaces": "POST  /v1/topics/first/logs HTTP/1.1", "a word too many": "POST /v1/topics/first/logs x HTTP/1.1",
		"a tab": "POST\t/v1/topics/first/logs HTTP/1.1", "a space before it": " POST /v1/topics/first/logs HTTP/1.1",
		"HTTP in lower case": "POST /v1/topics/first/logs http/1.1", "another protocol": "POST /v1/topics/first/logs ICAP/1.0",
		"a version too long": "POST /v1/topics/first/logs HTTP/1.10", "no version": "POST /v1/topics/first/logs HTTP/",
		"a method of signs": "PO:ST /v1/topics/first/logs HTTP/1.1", "a NUL in the method": "PO\x00ST /v1/topics/first/logs HTTP/1.1",
		"a NUL in the path": "POST /v1/topics/first/logs\x00 HTTP/1.1", "no slash": "POST v1/topics/first/logs HTTP/1.1",
	} {
		shapes[name] = shape{strings.Replace(post("first", "{}"), "POST /v1/topics/first/logs HTTP/1.1", line, 1) + second, "400|505", 0, 0}
	}
	for name, lines := range map[string][]string{
		"no Host": {}, "two hosts": {"Host: localhost", "Host: other.example"}, "a host with a space": {"Host: local host"},
		"a folded host": {"Host: localhost", " .example"}, "a space before Host": {" Host: localhost"}, "a space after Host": {"Host : localhost"},
	} {
		shapes[name] = shape{get(lines...) + second, "400", 0, 0}
	}
	s.under(bounds{memory: 160, goroutines: 400, topics: []string{"first", "second"}}, func() {
		for name, x := range shapes {
			before := [2]int{s.committed("first"), s.committed("second")}
			w := s.wire()
			w.send(x.sent + last)
			var got []string
			for _, a := range w.answers("GET") {
				got = append(got, fmt.Sprint(a.status))
			}
			w.Close()
			if !answeredAs(got, x.statuses) {
				t.Errorf("%s: answered %v, want %s", name, got, x.statuses)
			}
			after := [2]int{s.committed("first"), s.committed("second")}
			if len(got) > 0 && got[0] == "400" && !strings.HasPrefix(x.statuses, "400") {
				x.first, x.second = 0, 0 // refused as it may be, and so not done
			}
			if n := [2]int{after[0] - before[0], after[1] - before[1]}; n != [2]int{x.first, x.second} {
				t.Errorf("%s: %d first and %d second logs were committed, want %d and %d", name, n[0], n[1], x.first, x.second)
			}
		}
		t.Logf("%d shapes", len(shapes))
	})
}

// answeredAs tells whether the statuses are those wanted: a list, or, divided by " or ", several; in a list a place may have
// several, divided by "|".
func answeredAs(got []string, want string) bool {
	for list := range strings.SplitSeq(want, " or ") {
		if slices.EqualFunc(got, strings.Fields(list), func(status, place string) bool {
			return slices.Contains(strings.Split(place, "|"), status)
		}) {
			return true
		}
	}
	return false
}

// committed is how many logs a topic was given.
func (s *server) committed(topic string) int {
	s.t.Helper()
	a := s.callBy(s.aside, "GET", "/v1/topics/"+topic, "")
	if a.status == http.StatusNotFound {
		return 0
	}
	var counted struct{ Committed int }
	a.is(http.StatusOK).into(&counted)
	return counted.Committed
}

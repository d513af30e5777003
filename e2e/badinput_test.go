package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/cmd/server/service"
)

// badInput is a server with something of everything, which bad input must not change.
type badInput struct {
	procWire
	state  string
	routes []bodyRoute
}

// A bodyRoute is a route that takes a JSON object.
type bodyRoute struct {
	method, path string
	good         string // a body that changes something
	first        string // the first member of good; "" when it has none
	optional     bool   // an empty body is {}
	status       int    // the answer to good
}

func newBadInput(t *testing.T) *badInput {
	t.Helper()
	w := wireTo(t, start(t, func(c *service.Config) { c.Workers, c.AllowShutdown = 0, true }))
	w.stopClock()
	w.commit("t", 3)
	w.send("PUT", "/v1/procs/idle", `{"topic":"t"}`).is(201)
	w.send("PUT", "/v1/procs/off", `{"topic":"t"}`).is(201)
	w.post("/v1/procs/off/disable", "").is(200)
	w.post("/v1/system-procs", `{"name":"sys","from":["t"],"to":"out","processor":"http://127.0.0.1:1/"}`).is(201)
	live := w.post("/v1/live-procs", `{"topic":"t","mode":"all"}`).is(201).str("name")
	tokens := map[string]string{}
	for _, proc := range []string{"ack", "ackcommit", "reclaim", "extend"} {
		tokens[proc] = `"token":"` + w.claim(proc, `{"topic":"t","reclaimTimeout":-1}`).str("claim.token") + `"`
	}
	b := &badInput{procWire: w, routes: []bodyRoute{
		{"POST", "/v1/commit", `{"topic":"new","body":{}}`, `"topic":"new"`, false, 201},
		{"PUT", "/v1/procs/new", `{"topic":"t"}`, `"topic":"t"`, false, 201},
		{"PATCH", "/v1/procs/idle", `{"count":2}`, `"count":2`, true, 200},
		{"POST", "/v1/procs/newer/claim", `{"topic":"t","count":2}`, `"topic":"t"`, true, 200},
		{"POST", "/v1/claims", `{"procs":[{"name":"newest","topic":"t"}]}`, `"procs":[{"name":"newest","topic":"t"}]`, false, 200},
		{"POST", "/v1/procs/ack/ack", `{` + tokens["ack"] + `,"claimNext":true}`, tokens["ack"], true, 200},
		{"POST", "/v1/procs/ackcommit/ack-commit", `{` + tokens["ackcommit"] + `,"logs":{"topic":"new","body":{}}}`, tokens["ackcommit"],
			false, 200},
		{"POST", "/v1/procs/reclaim/reclaim", `{` + tokens["reclaim"] + `}`, tokens["reclaim"], true, 200},
		{"POST", "/v1/procs/extend/extend", `{` + tokens["extend"] + `}`, tokens["extend"], false, 200},
		{"POST", "/v1/procs/idle/seek", `{"offset":"$>"}`, `"offset":"$>"`, false, 200},
		{"POST", "/v1/procs/idle/disable", `{}`, "", true, 200},
		{"POST", "/v1/procs/off/resume", `{}`, "", true, 200},
		{"POST", "/v1/wait", `{"timeout":0,"procs":["off"]}`, `"timeout":0`, true, 200},
		{"POST", "/v1/system-procs", `{"name":"news","from":"t","processor":"http://127.0.0.1:1/"}`, `"name":"news"`, false, 201},
		{"PATCH", "/v1/system-procs/sys", `{"count":5,"to":["other"]}`, `"count":5`, true, 200},
		{"POST", "/v1/system-procs/sys/rotate-secret", `{"overlap":0}`, `"overlap":0`, true, 200},
		{"POST", "/v1/live-procs", `{"topic":"t","mode":"all"}`, `"topic":"t"`, false, 201},
		{"POST", "/v1/live-procs/" + live + "/cancel", `{}`, "", true, 200},
		{"POST", "/v1/gc", `{}`, "", true, 200},
		{"POST", "/v1/shutdown", `{}`, "", true, 202},
	}}
	b.state = b.snapshot()
	return b
}

// snapshot is all that can be read.
func (b *badInput) snapshot() string {
	b.t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/topics", "/v1/topics/t/logs", "/v1/procs?limit=1000", "/v1/system-procs", "/v1/gc"} {
		all.WriteString(b.get(path).is(200).Text)
	}
	return all.String()
}

// unchanged holds that what was sent since the last call changed nothing.
func (b *badInput) unchanged(what string) {
	b.t.Helper()
	now := b.snapshot()
	if diff := cmp.Diff(b.state, now); diff != "" {
		b.t.Errorf("%s changed something (-before +after):\n%s", what, diff)
	}
	b.state = now
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, r := range b.routes {
		what := r.method + " " + r.path
		refused := func(body string, status int, code string) *wireAnswer {
			t.Helper()
			return b.send(r.method, r.path, body).isProblem(status, code)
		}
		for _, body := range []string{`{`, `{"`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{a:1}`, `{'a':1}`, `{"a":01}`, `{"a":NaN}`, `{"a":"` + "\n" + `"}`,
			`{"a":"\x"}`, `[`, `]`, `nul`, `tru`, `-`, `"`, `// comment`, "\x00", `{}}`, `{} {}`, `{}x`, " ", "\n",
			r.good + "x", r.good + r.good, "\uFEFF" + r.good,
			"{\"a\":\"\xff\"}", "{\"a\xc3\":1}", "{\"a\":\"\xed\xa0\x80\"}", // invalid UTF-8
			`null`, `true`, `1`, `"x"`, `"{}"`, `[]`, `[null]`, `[1]`, `[[]]`, `[{}, null]`,
			`{"x":` + deep + `}`, deep} {
			refused(body, 400, "invalid_request")
		}
		// Unknown members, members of another case, and duplicate ones.
		for _, more := range []string{`"nope":1`, `"":1`, `"nope":null`, `"topicx":"t"`, `"__proto__":{}`} {
			refused("{"+strings.Trim(r.good[1:len(r.good)-1]+","+more, ",")+"}", 400, "invalid_request")
		}
		if r.first != "" {
			upper := `"` + strings.ToUpper(r.first[1:2]) + r.first[2:]
			refused(strings.Replace(r.good, r.first, upper, 1), 400, "invalid_request")
			refused("{"+r.first+","+r.good[1:], 400, "invalid_request")
			refused(r.good[:len(r.good)-1]+","+r.first+"}", 400, "invalid_request")
			name, value, _ := strings.Cut(r.first, ":")
			refused("{"+name[:1]+fmt.Sprintf(`\u%04x`, name[1])+name[2:]+":"+value+","+r.good[1:], 400, "invalid_request") // the same name
			refused("{"+name+":null,"+r.good[1:], 400, "invalid_request")
		}
		if !r.optional {
			refused("", 400, "invalid_request")
		}
		b.unchanged(what)

		for _, header := range [][]string{{}, {"Content-Type", "text/plain"}, {"Content-Type", "application/x-www-form-urlencoded"},
			{"Content-Type", "text/json"}, {"Content-Type", "application/json+x"}, {"Content-Type", "application/vnd.api+json"},
			{"Content-Type", "json"}, {"Content-Type", ""}, {"Content-Type", "application/json", "Content-Type", "text/plain"}} {
			for _, body := range []io.Reader{strings.NewReader(r.good), struct{ io.Reader }{strings.NewReader(r.good)}} {
				a := b.sendBody(r.method, r.path, body, header...).isProblem(415, "unsupported_media_type")
				if !strings.Contains(a.str("detail"), "--json") {
					t.Errorf("%s: the detail does not name --json: %s", a.what, a.str("detail"))
				}
			}
		}
		for _, header := range [][]string{{"Content-Type", "application/json; charset=latin1"},
			{"Content-Type", "application/json", "Content-Encoding", "gzip"}} {
			b.sendWith(r.method, r.path, r.good, header...).isProblem(415, "unsupported_media_type")
		}
		for _, query := range []string{"?nope=1", "?limit=1", "?=", "?topic=t", "?%zz"} {
			b.send(r.method, r.path+query, r.good).isProblem(400, "invalid_request")
		}
		b.unchanged(what + " with other content types or queries")
	}

	// The good ones are good, and so would have been seen.
	for i, r := range b.routes {
		contentType := []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""}[i%3]
		b.sendWith(r.method, r.path, r.good, "Content-Type", contentType).is(r.status)
	}
}

// An empty body means {} where every member is optional, and needs no Content-Type.
func TestEmptyBodies(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	for i, r := range b.routes {
		if !r.optional || r.path == "/v1/wait" { // which would wait
			continue
		}
		r.path = strings.Replace(r.path, "newer", "idle", 1) // an unknown proc needs a topic
		header := [][]string{{}, {"Content-Type", "application/json"}, {"Content-Type", "text/plain"}}[i%3]
		var body io.Reader
		if i%2 == 0 {
			body = struct{ io.Reader }{strings.NewReader("")} // chunked
		}
		b.sendBody(r.method, r.path, body, header...).is(r.status)
	}
}

// bad is one bad request.
type bad struct{ method, path, body, code string }

func TestBadMembers(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	all := map[string][]bad{}
	add := func(group, method, path, code string, bodies ...string) {
		for _, body := range bodies {
			all[group] = append(all[group], bad{method, path, body, code})
		}
	}
	const (
		invalid = "invalid_request"
		topic   = "invalid_topic_format"
		proc    = "invalid_proc_format"
		log     = "invalid_log_format"
		offset  = "invalid_range_offset"
		process = "no_valid_processor_provided"
	)
	long := strings.Repeat("a", 129)
	tooDeep := []string{strings.Repeat("[", 129) + strings.Repeat("]", 129), strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		strings.Repeat(`{"a":`, 129) + "1" + strings.Repeat("}", 129)}
	badNames := []string{`""`, `"b.d"`, `"a b"`, `"a/b"`, `"é"`, `"a\u0000"`, `"a\n"`, `"\ud800"`, `"` + long + `"`}
	badOffsets := []string{`""`, `":"`, `":-1"`, `":+1"`, `"-1"`, `"1-"`, `"-"`, `"x"`, `">>"`, `"$"`, `"<"`, `" >"`, `"EARLIEST"`, `"1.5"`, `"1e3"`,
		`"9223372036854775808"`, `":9223372036854775808"`, `":9223372036854775807"`, `"1-9223372036854775808"`,
		`"9223372036854775807"`} // the last one lies in the future

	// Logs, wherever they are committed.
	for _, in := range []struct{ group, path, envelope string }{
		{"commit", "/v1/commit", "%s"}, {"ack-commit", "/v1/procs/ackcommit/ack-commit", `{"logs":%s}`}} {
		for _, list := range []string{"%s", "[%s]", `[{"topic":"new","body":{}},%s]`} {
			wrap := func(log string) string { return fmt.Sprintf(in.envelope, fmt.Sprintf(list, log)) }
			for _, body := range []string{`1`, `"x"`, `true`, `null`, `-0.5`, `""`, tooDeep[0], tooDeep[1], tooDeep[2]} {
				add(in.group, "POST", in.path, log, wrap(`{"topic":"new","body":`+body+`}`))
			}
			add(in.group, "POST", in.path, log, wrap(`{"topic":"new"}`))
			for _, name := range badNames {
				add(in.group, "POST", in.path, topic, wrap(`{"topic":`+name+`,"body":{}}`))
			}
			add(in.group, "POST", in.path, topic, wrap(`{"body":{}}`), wrap(`{}`), wrap(`{"topic":null,"body":{}}`))
			add(in.group, "POST", in.path, invalid, wrap(`{"topic":1,"body":{}}`), wrap(`{"topic":["new"],"body":{}}`), wrap(`{"topic":{},"body":{}}`),
				wrap(`{"topic":"new","body":{},"id":"1-0"}`), wrap(`{"topic":"new","body":{},"body":{}}`), wrap(`{"topic":"new","topic":"new","body":{}}`),
				wrap(`{"Topic":"new","body":{}}`), wrap(`{"topic":"new","Body":{}}`))
		}
		add(in.group, "POST", in.path, invalid, fmt.Sprintf(in.envelope, `[]`), fmt.Sprintf(in.envelope, `[null]`), fmt.Sprintf(in.envelope, `[[]]`),
			fmt.Sprintf(in.envelope, `["x"]`), fmt.Sprintf(in.envelope, `1`), fmt.Sprintf(in.envelope, `"x"`), fmt.Sprintf(in.envelope, `null`))
		add(in.group, "POST", in.path, "too_large", // 413
			fmt.Sprintf(in.envelope, "["+strings.Join(slices.Repeat([]string{`{"topic":"new","body":{}}`}, 10_001), ",")+"]"),
			fmt.Sprintf(in.envelope, `{"topic":"new","body":["`+strings.Repeat("x", 1<<20-3)+`"]}`))
	}
	add("ack-commit", "POST", "/v1/procs/ackcommit/ack-commit", invalid, `{}`, `{"token":"x"}`)
	const logs = "/v1/topics/new/logs"
	add("logs", "POST", logs, log, "", `1`, `"x"`, `true`, `null`, `-1.5`, tooDeep[0], tooDeep[1], tooDeep[2])
	add("logs", "POST", logs, invalid, `{`, `{"a":1}x`, "[\"\xff\"]", `[1,]`)
	add("logs", "POST", logs, "too_large", `["`+strings.Repeat("x", 1<<20-3)+`"]`)

	// Options of procs.
	options := []struct{ group, method, path, envelope string }{
		{"claim", "POST", "/v1/procs/new/claim", `{"topic":"t",%s}`},
		{"claim of a known proc", "POST", "/v1/procs/idle/claim", `{%s}`},
		{"create", "PUT", "/v1/procs/new", `{"topic":"t",%s}`},
		{"patch", "PATCH", "/v1/procs/idle", `{%s}`},
		{"claims", "POST", "/v1/claims", `{"procs":[{"name":"idle","topic":"t"},{"name":"new","topic":"t",%s}]}`},
		{"systemProc", "POST", "/v1/system-procs", `{"name":"new","from":"t","processor":"http://127.0.0.1:1/",%s}`},
		{"patch of a systemProc", "PATCH", "/v1/system-procs/sys", `{%s}`},
	}
	for _, o := range options {
		for member, values := range map[string][]string{
			"count":                {`0`, `-1`, `10001`, `1.5`, `1e1`, `"1"`, `true`, `[]`, `{}`, `99999999999999999999`, `-9223372036854775809`},
			"maxReclaims":          {`-2`, `1.5`, `"1"`, `2147483648`, `1e400`, `false`},
			"reclaimTimeout":       {`0`, `-2`, `31536000001`, `1.5`, `"1"`, `1e3`, `9223372036854775808`},
			"onMaxReclaimsReached": {`""`, `"Disable"`, `"stop"`, `1`, `{}`, `["continue"]`},
		} {
			for _, value := range values {
				add(o.group, o.method, o.path, invalid, fmt.Sprintf(o.envelope, fmt.Sprintf("%q:%s", member, value)))
			}
		}
		if strings.HasPrefix(o.group, "patch") {
			add(o.group, o.method, o.path, invalid, `{"offset":">"}`, `{"topic":"t"}`, `{"name":"x"}`)
			continue
		}
		for _, value := range badOffsets {
			if o.group == "claim of a known proc" && (value == `":9223372036854775807"` || value == `"9223372036854775807"`) {
				continue // where the proc would start is not asked
			}
			add(o.group, o.method, o.path, offset, fmt.Sprintf(o.envelope, `"offset":`+value))
		}
		add(o.group, o.method, o.path, invalid, fmt.Sprintf(o.envelope, `"offset":5`), fmt.Sprintf(o.envelope, `"offset":[">"]`))
	}
	for _, name := range badNames {
		add("claim", "POST", "/v1/procs/new/claim", topic, `{"topic":`+name+`}`)
		add("create", "PUT", "/v1/procs/new", topic, `{"topic":`+name+`}`)
		add("claims", "POST", "/v1/claims", topic, `{"procs":[{"name":"new","topic":`+name+`}]}`)
		add("claims", "POST", "/v1/claims", proc, `{"procs":[{"name":"idle","topic":"t"},{"name":`+name+`,"topic":"t"}]}`)
		add("systemProc", "POST", "/v1/system-procs", proc, `{"name":`+name+`,"from":"t","processor":"http://127.0.0.1:1/"}`)
		add("systemProc", "POST", "/v1/system-procs", topic, `{"name":"new","from":`+name+`,"processor":"http://127.0.0.1:1/"}`,
			`{"name":"new","from":["t",`+name+`],"processor":"http://127.0.0.1:1/"}`,
			`{"name":"new","from":"t","to":`+name+`,"processor":"http://127.0.0.1:1/"}`,
			`{"name":"new","from":"t","to":["out",`+name+`],"processor":"http://127.0.0.1:1/"}`)
		add("liveProc", "POST", "/v1/live-procs", topic, `{"mode":"all","topic":`+name+`}`)
		add("wait", "POST", "/v1/wait", proc, `{"procs":[`+name+`]}`)
	}
	add("create", "PUT", "/v1/procs/new", topic, `{}`, `{"count":1}`, `{"topic":null}`)
	for _, wait := range []string{`-1`, `60001`, `1.5`, `"1"`, `true`, `9223372036854775808`} {
		add("claim", "POST", "/v1/procs/new/claim", invalid, `{"topic":"t","wait":`+wait+`}`)
		add("claims", "POST", "/v1/claims", invalid, `{"procs":[{"name":"new","topic":"t"}],"wait":`+wait+`}`)
		add("wait", "POST", "/v1/wait", invalid, `{"timeout":`+wait+`}`)
	}
	entries := make([]string, 1001)
	for i := range entries {
		entries[i] = fmt.Sprintf(`{"name":"n%d","topic":"t"}`, i)
	}
	add("claims", "POST", "/v1/claims", invalid, `{}`, `{"procs":[]}`, `{"procs":null}`, `{"procs":{}}`, `{"procs":["new"]}`, `{"procs":[null]}`,
		`{"procs":[{"name":"new","topic":"t"},{"name":"new","topic":"t"}]}`, `{"procs":[{"name":"new","topic":"t","nope":1}]}`,
		`{"procs":[{"name":"new","topic":"t","topic":"t"}]}`, `{"procs":[{"name":1,"topic":"t"}]}`,
		`{"procs":[`+strings.Join(entries, ",")+`]}`)
	add("claims", "POST", "/v1/claims", proc, `{"procs":[{"topic":"t"}]}`, `{"procs":[{}]}`)

	// Claims.
	for _, route := range []string{"ack/ack", "reclaim/reclaim", "extend/extend"} {
		add("tokens", "POST", "/v1/procs/"+route, invalid, `{"token":""}`, `{"token":1}`, `{"token":["x"]}`, `{"token":{}}`)
	}
	add("tokens", "POST", "/v1/procs/extend/extend", invalid, `{}`, `{"token":null}`)
	add("tokens", "POST", "/v1/procs/ack/ack", invalid, `{"claimNext":true}`, `{"claimNext":"true"}`, `{"claimNext":1}`, `{"token":"x","count":0}`,
		`{"token":"x","count":10001}`, `{"token":"x","claimNext":true,"count":"1"}`, `{"logs":{"topic":"new","body":{}}}`)
	add("tokens", "POST", "/v1/procs/ackcommit/ack-commit", invalid, `{"claimNext":true,"logs":{"topic":"new","body":{}}}`,
		`{"token":"","logs":{"topic":"new","body":{}}}`, `{"token":"x","count":0,"logs":{"topic":"new","body":{}}}`)
	for _, value := range badOffsets {
		add("seek", "POST", "/v1/procs/idle/seek", offset, `{"offset":`+value+`}`)
	}
	add("seek", "POST", "/v1/procs/idle/seek", invalid, `{}`, `{"offset":null}`, `{"offset":5}`, `{"offset":">","topic":"t"}`)
	add("wait", "POST", "/v1/wait", invalid, `{"procs":[]}`, `{"procs":"idle"}`, `{"procs":[1]}`, `{"procs":[null]}`, `{"procs":{}}`)
	add("liveProc", "POST", "/v1/live-procs", topic, `{"mode":"all"}`, `{}`)
	add("liveProc", "POST", "/v1/live-procs", invalid, `{"topic":"t"}`, `{"topic":"t","mode":""}`, `{"topic":"t","mode":"All"}`, `{"topic":"t","mode":1}`,
		`{"topic":"t","mode":"all","count":0}`, `{"topic":"t","mode":"all","count":10001}`, `{"topic":"t","mode":"all","ttl":0}`,
		`{"topic":"t","mode":"all","ttl":-2}`, `{"topic":"t","mode":"all","ttl":"1"}`, `{"topic":"t","mode":"all","ttl":1.5}`,
		`{"topic":"t","mode":"all","ttl":9223372036854775807}`, `{"topic":"t","mode":"all","offset":">"}`, `{"topic":1,"mode":"all"}`)

	// SystemProcs.
	spec := func(members string) string { return `{"name":"new",` + members + `}` }
	add("systemProc", "POST", "/v1/system-procs", invalid, spec(`"processor":"http://127.0.0.1:1/"`), spec(`"from":[],"processor":"http://127.0.0.1:1/"`),
		spec(`"from":["t","t"],"processor":"http://127.0.0.1:1/"`), spec(`"from":1,"processor":"http://127.0.0.1:1/"`),
		spec(`"from":[1],"processor":"http://127.0.0.1:1/"`), spec(`"from":{},"processor":"http://127.0.0.1:1/"`),
		spec(`"from":"t","to":["a","a"],"processor":"http://127.0.0.1:1/"`), spec(`"from":"t","to":1,"processor":"http://127.0.0.1:1/"`),
		spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","nope":1}`), spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","timeout":0}`),
		spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","timeout":-1}`), spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","timeout":"1"}`),
		spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","url":"http://127.0.0.1:1/"}`),
		spec(`"from":"t","processor":{"url":"http://127.0.0.1:1/","headers":{"a":1}}`))
	add("systemProc", "POST", "/v1/system-procs", process, spec(`"from":"t"`), spec(`"from":"t","processor":null`), spec(`"from":"t","processor":""`),
		spec(`"from":"t","processor":{}`), spec(`"from":"t","processor":1`), spec(`"from":"t","processor":[]`), spec(`"from":"t","processor":"x"`),
		spec(`"from":"t","processor":"ftp://h/"`), spec(`"from":"t","processor":"http://"`), spec(`"from":"t","processor":"http://[::1"`),
		spec(`"from":"t","processor":"file:///etc/passwd"`), spec(`"from":"t","processor":{"url":"http://h/","inline":"x"}`),
		spec(`"from":"t","processor":{"url":"http://h/","headers":{"a\nb":"c"}}`), spec(`"from":"t","processor":{"url":"http://h/","headers":{"a":"c\nd"}}`))
	add("systemProc", "POST", "/v1/system-procs", proc, `{"from":"t","processor":"http://127.0.0.1:1/"}`,
		`{"name":"`+strings.Repeat("n", 126)+`","from":["t"],"processor":"http://127.0.0.1:1/"}`) // n…__t has 129
	add("patch of a systemProc", "PATCH", "/v1/system-procs/sys", process, `{"processor":""}`, `{"processor":{}}`, `{"processor":"ftp://h/"}`)
	add("patch of a systemProc", "PATCH", "/v1/system-procs/sys", invalid, `{"from":"t"}`, `{"from":[]}`, `{"from":["t","t"]}`, `{"to":["a","a"]}`)

	for group, requests := range all {
		for _, r := range requests {
			status := 400
			if r.code == "too_large" {
				status = 413
			}
			b.send(r.method, r.path, r.body).isProblem(status, r.code)
		}
		b.unchanged(group)
	}
}

// A request is at most 16 MiB, whether it tells its length or not.
func TestRequestOver16MiB(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	const most = 16 << 20
	log := `{"topic":"new","body":{}}`
	large := log + strings.Repeat(" ", most-len(log)+1)
	for _, path := range []string{"/v1/commit", "/v1/topics/new/logs"} {
		b.sendWith("POST", path, large, "Content-Type", "application/json").isProblem(413, "too_large")
	}
	b.sendBody("POST", "/v1/commit", struct{ io.Reader }{strings.NewReader(large)}, "Content-Type", "application/json").isProblem(413, "too_large")
	b.unchanged("a request over 16 MiB")
}

func TestBadNamesInPaths(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	for _, name := range []string{"b.d", "a%20b", "%20", "a%2Fb", "%2F", "%00", "%FF", "%C3%A9", "é", "a+b", "a:b", "a~", "*", "@", strings.Repeat("a", 129)} {
		for _, r := range []struct{ method, path, code string }{
			{"GET", "/v1/topics/%s", "invalid_topic_format"},
			{"DELETE", "/v1/topics/%s?force=true", "invalid_topic_format"},
			{"POST", "/v1/topics/%s/logs", "invalid_topic_format"},
			{"GET", "/v1/topics/%s/logs", "invalid_topic_format"},
			{"GET", "/v1/topics/%s/logs/:0", "invalid_topic_format"},
			{"GET", "/v1/topics/%s/live", "invalid_topic_format"},
			{"GET", "/v1/procs/%s", "invalid_proc_format"},
			{"PUT", "/v1/procs/%s", "invalid_proc_format"},
			{"PATCH", "/v1/procs/%s", "invalid_proc_format"},
			{"DELETE", "/v1/procs/%s", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/claim", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/ack", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/ack-commit", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/reclaim", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/extend", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/seek", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/disable", "invalid_proc_format"},
			{"POST", "/v1/procs/%s/resume", "invalid_proc_format"},
			{"GET", "/v1/system-procs/%s", "invalid_proc_format"},
			{"PATCH", "/v1/system-procs/%s", "invalid_proc_format"},
			{"DELETE", "/v1/system-procs/%s", "invalid_proc_format"},
			{"POST", "/v1/system-procs/%s/rotate-secret", "invalid_proc_format"},
			{"DELETE", "/v1/live-procs/%s", "invalid_proc_format"},
			{"POST", "/v1/live-procs/%s/cancel", "invalid_proc_format"},
			{"GET", "/v1/live-procs/%s/changes", "invalid_proc_format"},
		} {
			body := ""
			if r.method == http.MethodPost || r.method == http.MethodPut {
				body = `{}`
			}
			b.send(r.method, fmt.Sprintf(r.path, name), body).isProblem(400, r.code)
		}
	}
	for _, query := range []string{"/v1/procs?topic=b.d", "/v1/topics?after=b.d", "/v1/tail?topic=b.d", "/v1/tail?topic=t&topic=", "/v1/procs?topic="} {
		b.get(query).isProblem(400, "invalid_topic_format")
	}
	for _, query := range []string{"/v1/procs?after=b.d", "/v1/system-procs?after=", "/v1/procs?after=%00"} {
		b.get(query).isProblem(400, "invalid_proc_format")
	}
	b.unchanged("a bad name")
}

// What cannot be read of a query changes nothing either: streams are GETs that could create.
func TestBadQueries(t *testing.T) {
	t.Parallel()
	b := newBadInput(t)
	for _, path := range []string{"/v1/topics/t/live?mode=", "/v1/topics/t/live?mode=some", "/v1/topics/t/live?count=0", "/v1/topics/t/live?count=10001",
		"/v1/topics/t/live?count=x", "/v1/topics/t/live?ttl=0", "/v1/topics/t/live?ttl=-2", "/v1/topics/t/live?nope=1",
		"/v1/topics/t/live?mode=all&mode=all", "/v1/topics/t/live?lastEventId=x", "/v1/topics/t/live?start=:0",
		"/v1/live-procs/x/changes?nope=1", "/v1/live-procs/x/changes?lastEventId=:::", "/v1/live-procs/x/changes?lastEventId=y:1:",
		"/v1/tail", "/v1/tail?start=earliest", "/v1/tail?topic=t&topic=t", "/v1/tail?topic=t&nope=1", "/v1/tail?topic=t&start=a&start=b",
		"/v1/tail?topic=t&lastEventId=x",
		"/v1/procs?kind=other", "/v1/procs?kind=", "/v1/procs?limit=0", "/v1/procs?limit=1001", "/v1/procs?name=x", "/v1/system-procs?limit=-1",
		"/v1/system-procs?kind=system", "/v1/gc?x=1"} {
		b.get(path).isProblem(400, "invalid_request")
	}
	for _, path := range []string{"/v1/tail?topic=t&start=x", "/v1/tail?topic=t&start=:x", "/v1/tail?topic=t&start=-1"} {
		b.get(path).isProblem(400, "invalid_range_offset")
	}
	b.get("/v1/tail?topic=t&start=:3").isProblem(416, "invalid_tone_id_search")
	b.get("/v1/tail?topic=unknown&start=:3").isProblem(404, "invalid_topic")
	b.get("/v1/tail?topic=t&topic=unknown&start=:0").isProblem(404, "invalid_topic")
	b.get("/v1/live-procs/x/changes").isProblem(404, "invalid_proc")
	b.get("/v1/live-procs/idle/changes").isProblem(404, "invalid_proc") // it is no liveProc
	b.sendWith("GET", "/v1/topics/t/live", "", "Sec-Fetch-Site", "cross-site").isProblem(403, "forbidden")
	b.unchanged("a bad query")
}

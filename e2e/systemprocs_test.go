package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pipeproc/cmd/server/service"
)

const nowhere = "http://127.0.0.1:1/"

func noWorkers(c *service.Config) { c.Workers = 0 }

// TestSystemProcDefinitions holds the routes of systemProcs on a server that runs none of them.
func TestSystemProcDefinitions(t *testing.T) {
	t.Parallel()
	s := start(t, noWorkers)
	for name, test := range map[string]func(procWire){
		"create":       testCreateSystemProc,
		"names":        testSystemProcNames,
		"same again":   testSameDefinition,
		"other":        testOtherDefinition,
		"patch":        testPatchSystemProc,
		"destroy":      testDestroySystemProc,
		"redacted":     testSecretsAreRedacted,
		"list":         testListSystemProcs,
		"unknown":      testUnknownSystemProc,
		"bad input":    testBadSystemProcs,
		"managed":      testManagedProcs,
		"topic":        testTopicOfSystemProcs,
		"nothing runs": testNothingRuns,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(wireTo(t, s))
		})
	}
}

func testCreateSystemProc(w procWire) {
	w.commit("create_a", 3)
	a := w.systemProc("create", "create_a", nowhere)
	a.hasExactly("", "procs", "secret")
	a.hasExactly("procs.0", procMembers...)
	if n := len(a.list("procs")); n != 1 {
		w.t.Errorf("%d procs", n)
	}
	for member, want := range map[string]any{"name": "create", "topic": "create_a", "kind": "system", "status": "active",
		"offset": ">", "count": 1, "lastClaimedRange": "", "previousClaimedRange": "", "lastAckedRange": "",
		"lastClaimedAt": nil, "lastAckedAt": nil, "reclaims": 0, "maxReclaims": 10, "reclaimTimeout": 10000,
		"onMaxReclaimsReached": "disable", "lag": 3, "claim": nil} {
		a.has("procs.0."+member, want)
	}
	w.proc("create").tellsAs(&wireAnswer{Status: 200, JSON: a.at("procs.0")})

	a = w.get("/v1/system-procs/create").is(http.StatusOK)
	a.hasExactly("", "name", "from", "to", "processor", "createdAt", "procs")
	a.has("name", "create").has("from", "create_a").has("processor", nowhere)
	if len(a.list("to")) != 0 || len(a.list("procs")) != 1 || a.num("createdAt") == 0 {
		w.t.Errorf("it tells %s", a.Text)
	}
	if a.num("createdAt") > a.num("procs.0.createdAt") {
		w.t.Errorf("it was created after its procs: %s", a.Text)
	}

	// Every option, in every form.
	a = w.post("/v1/system-procs", `{"name":"create_all","from":["create_a","create_new"],"to":["x","y"],"offset":"$>","count":7,
		"maxReclaims":-1,"reclaimTimeout":-1,"onMaxReclaimsReached":"continue",
		"processor":{"url":"https://example.invalid/p?q=1","timeout":500,"headers":{"X-Key":"v"}}}`).is(http.StatusCreated)
	for i, topic := range []string{"create_a", "create_new"} {
		proc := fmt.Sprintf("procs.%d.", i)
		a.has(proc+"name", "create_all__"+topic).has(proc+"topic", topic).has(proc+"count", 7).has(proc+"maxReclaims", -1).
			has(proc+"reclaimTimeout", -1).has(proc+"onMaxReclaimsReached", "continue").has(proc+"lag", 0)
	}
	a.has("procs.0.offset", "$>")
	a = w.get("/v1/system-procs/create_all").is(http.StatusOK)
	a.hasExactly("processor", "url", "timeout", "headers").has("processor.timeout", 500)
	if got := strings.Join(append(a.strs("from"), a.strs("to")...), " "); got != "create_a create_new x y" {
		w.t.Errorf("from and to: %s", got)
	}
	w.get("/v1/topics/create_new").isProblem(404, "invalid_topic") // reserved, not known
	if w.send(http.MethodHead, "/v1/system-procs/create", "").is(http.StatusOK).Text != "" {
		w.t.Error("HEAD has a body")
	}

	// Offsets hold as for any proc.
	w.commit("create_offsets", 5)
	ids := w.get("/v1/topics/create_offsets/logs").ids("logs")
	for i, o := range []struct {
		offset string
		lag    int
	}{{">", 5}, {"earliest", 5}, {"$>", 0}, {"latest", 0}, {":1", 3}, {ids[2], 2}, {":9", 0}} {
		w.systemProc(fmt.Sprintf("create_o%d", i), "create_offsets", nowhere, fmt.Sprintf(`"offset":%q`, o.offset)).
			has("procs.0.lag", o.lag)
	}
}

func testSystemProcNames(w procWire) {
	// A list of one is a list.
	w.post("/v1/system-procs", `{"name":"names","from":["names_a"],"processor":"`+nowhere+`"}`).is(201).
		has("procs.0.name", "names__names_a")

	long := strings.Repeat("n", 128)
	w.systemProc(long, "names_a", nowhere).has("procs.0.name", long)
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":["names_a"],"processor":%q}`, long[:127], nowhere)).
		isProblem(400, "invalid_proc_format")
	w.get("/v1/system-procs/"+long[:127]).isProblem(404, "invalid_system_proc")
	// 128 exactly: name, two underscores, topic.
	fits := strings.Repeat("f", 128-2-len("names_a"))
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":["names_a"],"processor":%q}`, fits, nowhere)).is(201).
		has("procs.0.name", fits+"__names_a")
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":["names_a","names_ab"],"processor":%q}`, fits, nowhere)).
		isProblem(400, "invalid_proc_format")

	// Taken by a proc, by another systemProc's proc: all or nothing.
	w.send(http.MethodPut, "/v1/procs/taken", `{"topic":"names_a"}`).is(201)
	w.send(http.MethodPut, "/v1/procs/taken__b", `{"topic":"names_a"}`).is(201)
	for _, from := range []string{`"names_a"`, `["a","b"]`} {
		w.post("/v1/system-procs", `{"name":"taken","from":`+from+`,"processor":"`+nowhere+`"}`).
			isProblem(409, "proc_name_not_unique")
	}
	w.get("/v1/system-procs/taken").isProblem(404, "invalid_system_proc")
	w.get("/v1/procs/taken__a").isProblem(404, "invalid_proc")
	w.proc("taken").has("kind", "proc")
	w.post("/v1/system-procs", `{"name":"names__names_a","from":"names_a","processor":"`+nowhere+`"}`).
		isProblem(409, "proc_name_not_unique")
	// A liveProc's name as well.
	live := w.post("/v1/live-procs", `{"topic":"names_a","mode":"live"}`).is(201).str("name")
	w.post("/v1/system-procs", fmt.Sprintf(`{"name":%q,"from":"names_a","processor":%q}`, live, nowhere)).
		isProblem(409, "proc_name_not_unique")
}

func testSameDefinition(w procWire) {
	const define = "/v1/system-procs"
	w.commit("same_a", 2)
	first := w.post(define, `{"name":"same","from":["same_a","same_b"],"to":"o","count":2,"processor":"`+nowhere+`"}`).is(201)
	again := w.post(define, `{"name":"same","from":["same_a","same_b"],"to":"o","count":2,"processor":"`+nowhere+`"}`).is(200)
	again.hasExactly("", "procs")
	again.tellsAs(&wireAnswer{Status: 200, JSON: map[string]any{"procs": first.at("procs")}})
	// Defaults spelled out, other forms of the same.
	for _, body := range []string{
		`"to":["o"],"count":2,"processor":{"url":"` + nowhere + `"}`,
		`"to":"o","count":2,"offset":">","maxReclaims":10,"reclaimTimeout":10000,"onMaxReclaimsReached":"disable","processor":"` + nowhere + `"`,
		`"to":"o","count":2,"offset":"earliest","maxReclaims":0,"processor":"` + nowhere + `"`,
	} {
		w.post(define, `{"name":"same","from":["same_a","same_b"],`+body+`}`).is(200)
	}
	// What is told of a list that gains: all procs, with those made now.
	again = w.post(define, `{"name":"same","from":["same_c","same_a","same_b"],"to":"o","count":2,"processor":"`+nowhere+`"}`).is(200)
	var names []string
	for i := range again.list("procs") {
		names = append(names, again.str(fmt.Sprintf("procs.%d.name", i)))
	}
	if got := strings.Join(names, " "); got != "same__same_a same__same_b same__same_c" {
		w.t.Errorf("procs: %s", got)
	}
	again.has("procs.2.count", 2).has("procs.0.createdAt", first.num("procs.0.createdAt"))
	if got := w.get("/v1/system-procs/same").strs("from"); len(got) != 3 {
		w.t.Errorf("from: %v", got)
	}
	// One that loses a topic is another one.
	w.post(define, `{"name":"same","from":["same_a","same_b"],"to":"o","count":2,"processor":"`+nowhere+`"}`).
		isProblem(409, "proc_options_differ")
	// Gaining a topic whose proc's name is taken changes nothing.
	w.send(http.MethodPut, "/v1/procs/same__same_d", `{"topic":"same_d"}`).is(201)
	w.post(define, `{"name":"same","from":["same_a","same_b","same_c","same_d"],"to":"o","count":2,"processor":"`+nowhere+`"}`).
		isProblem(409, "proc_name_not_unique")
	if got := w.get("/v1/system-procs/same").strs("from"); len(got) != 3 {
		w.t.Errorf("from: %v", got)
	}
}

func testOtherDefinition(w procWire) {
	const define = "/v1/system-procs"
	base := map[string]string{"name": `"other"`, "from": `["other_a"]`, "to": `"o"`, "processor": `{"url":"` + nowhere + `","headers":{"K":"v"}}`}
	body := func(change map[string]string) string {
		var members []string
		for _, name := range []string{"name", "from", "to", "processor", "offset", "count", "maxReclaims", "reclaimTimeout", "onMaxReclaimsReached"} {
			value := base[name]
			if changed, ok := change[name]; ok {
				value = changed
			}
			if value != "" {
				members = append(members, fmt.Sprintf("%q:%s", name, value))
			}
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	w.post(define, body(nil)).is(201)
	before := w.get("/v1/system-procs/other").is(200)
	for _, change := range []map[string]string{
		{"from": `"other_a"`}, {"from": `["other_b"]`}, {"from": `["other_b","other_c"]`},
		{"to": `""`[:0]}, {"to": `["o","p"]`}, {"to": `"p"`},
		{"processor": `"` + nowhere + `"`}, {"processor": `{"url":"` + nowhere + `x","headers":{"K":"v"}}`},
		{"processor": `{"url":"` + nowhere + `","headers":{"K":"w"}}`}, {"processor": `{"url":"` + nowhere + `","timeout":5,"headers":{"K":"v"}}`},
		{"offset": `"$>"`}, {"count": "2"}, {"maxReclaims": "3"}, {"reclaimTimeout": "9999"}, {"onMaxReclaimsReached": `"continue"`},
		{"from": `["other_a","other_b"]`, "count": "2"},
	} {
		w.post(define, body(change)).isProblem(409, "proc_options_differ")
	}
	w.get("/v1/system-procs/other").tellsAs(before)
	w.post(define, body(nil)).is(200)
}

func testPatchSystemProc(w procWire) {
	w.commit("patch_a", 4)
	w.systemProc("patch", "patch_a", nowhere, `"to":"o"`, `"offset":":0"`)
	a := w.send(http.MethodPatch, "/v1/system-procs/patch", `{"to":["p","q"],"count":3,"maxReclaims":2,"reclaimTimeout":777,
		"onMaxReclaimsReached":"continue","processor":{"url":"http://example.invalid/","timeout":700}}`).is(200)
	a.hasExactly("", "name", "from", "to", "processor", "createdAt", "procs")
	a.has("procs.0.count", 3).has("procs.0.maxReclaims", 2).has("procs.0.reclaimTimeout", 777).has("procs.0.lag", 3).
		has("procs.0.onMaxReclaimsReached", "continue").has("procs.0.offset", ":0").has("processor.url", "http://example.invalid/")
	w.get("/v1/system-procs/patch").tellsAs(a)
	w.proc("patch").has("count", 3)
	// Absent members stay; nothing at all is no change.
	a = w.send(http.MethodPatch, "/v1/system-procs/patch", `{"count":4}`).is(200)
	a.has("procs.0.count", 4).has("procs.0.maxReclaims", 2).has("processor.timeout", 700)
	w.send(http.MethodPatch, "/v1/system-procs/patch", `{}`).tellsAs(a)
	w.send(http.MethodPatch, "/v1/system-procs/patch", ``).tellsAs(a)
	// The definition is the patched one from now on.
	w.post("/v1/system-procs", `{"name":"patch","from":"patch_a","to":"o","offset":":0","processor":"`+nowhere+`"}`).
		isProblem(409, "proc_options_differ")
	w.post("/v1/system-procs", `{"name":"patch","from":"patch_a","to":["p","q"],"offset":":0","count":4,"maxReclaims":2,"reclaimTimeout":777,
		"onMaxReclaimsReached":"continue","processor":{"url":"http://example.invalid/","timeout":700}}`).is(200)
	for body, code := range map[string]string{
		`{"name":"x"}`: "invalid_request", `{"offset":">"}`: "invalid_request", `{"count":0}`: "invalid_request",
		`{"processor":"x"}`: "no_valid_processor_provided", `{"processor":7}`: "no_valid_processor_provided",
		`{"processor":{"url":"` + nowhere + `","timeout":777}}`: "invalid_request", // not below reclaimTimeout
		`{"to":"a b"}`: "invalid_topic_format", `{"from":"elsewhere"}`: "invalid_request", `[]`: "invalid_request",
	} {
		w.send(http.MethodPatch, "/v1/system-procs/patch", body).isProblem(400, code)
	}
	w.get("/v1/system-procs/patch").tellsAs(a)

	// By the proc's own route, too, a claim is not to end before its call does.
	w.send(http.MethodPatch, "/v1/procs/patch", `{"reclaimTimeout":700}`).isProblem(400, "invalid_request")
	w.get("/v1/system-procs/patch").tellsAs(a)
	w.send(http.MethodPatch, "/v1/procs/patch", `{"reclaimTimeout":701}`).is(200)
	w.send(http.MethodPatch, "/v1/system-procs/patch", `{"processor":{"url":"`+nowhere+`","timeout":701}}`).isProblem(400, "invalid_request")
	w.send(http.MethodPatch, "/v1/procs/patch", `{"reclaimTimeout":777}`).is(200)
	w.get("/v1/system-procs/patch").tellsAs(a)

	// A list gains and loses topics, and their procs.
	w.post("/v1/system-procs", `{"name":"patch_l","from":["patch_a","patch_b"],"processor":"`+nowhere+`"}`).is(201)
	w.send(http.MethodPut, "/v1/procs/patch_l__patch_d", `{"topic":"patch_a"}`).is(201)
	a = w.send(http.MethodPatch, "/v1/system-procs/patch_l", `{"from":["patch_b","patch_c"]}`).is(200)
	a.has("procs.0.name", "patch_l__patch_b").has("procs.1.name", "patch_l__patch_c")
	w.get("/v1/procs/patch_l__patch_a").isProblem(404, "invalid_proc")
	w.send(http.MethodPatch, "/v1/system-procs/patch_l", `{"from":["patch_b","patch_d"]}`).isProblem(409, "proc_name_not_unique")
	w.get("/v1/system-procs/patch_l").tellsAs(a)
}

func testDestroySystemProc(w procWire) {
	w.post("/v1/system-procs", `{"name":"destroy","from":["destroy_a","destroy_b"],"processor":{"url":"`+nowhere+`","headers":{"Authorization":"hush"}}}`).is(201)
	before := w.get("/v1/system-procs/destroy").is(200)
	a := w.send(http.MethodDelete, "/v1/system-procs/destroy", "").is(200)
	a.tellsAs(before)
	if strings.Contains(a.Text, "hush") {
		w.t.Errorf("a secret is told: %s", a.Text)
	}
	w.send(http.MethodDelete, "/v1/system-procs/destroy", "").isProblem(404, "invalid_system_proc")
	w.get("/v1/procs/destroy__destroy_a").isProblem(404, "invalid_proc")
	// The names are free, for anybody.
	w.send(http.MethodPut, "/v1/procs/destroy__destroy_a", `{"topic":"destroy_a"}`).is(201).has("kind", "proc")
	w.systemProc("destroy", "destroy_a", nowhere, `"count":5`).has("procs.0.count", 5)
}

func testSecretsAreRedacted(w procWire) {
	const secret = "correct-horse"
	created := w.post("/v1/system-procs", `{"name":"secret","from":"secret_a","processor":{"url":"`+nowhere+`","headers":{"Authorization":"Bearer `+secret+`","X-Key":"`+secret+`"}}}`).is(201)
	patched := w.send(http.MethodPatch, "/v1/system-procs/secret", `{"count":2}`)
	one, all := w.get("/v1/system-procs/secret"), w.get("/v1/system-procs")
	for _, a := range []*wireAnswer{created, patched, one, all, w.proc("secret"), w.get("/v1/procs")} {
		if strings.Contains(a.is(a.Status).Text, secret) {
			w.t.Errorf("%s tells a secret: %s", a.what, a.Text)
		}
	}
	one.hasExactly("processor.headers", "Authorization", "X-Key") // what there is, is told
}

func testListSystemProcs(w procWire) {
	for _, name := range []string{"zz_list2", "zz_list3", "zz_list1"} { // after all that others create here
		w.systemProc(name, "list_a", nowhere)
	}
	a := w.get("/v1/system-procs?after=zz_list&limit=2").is(200)
	a.hasExactly("", "systemProcs", "next").has("systemProcs.0.name", "zz_list1").has("systemProcs.1.name", "zz_list2").has("next", "zz_list2")
	a.hasExactly("systemProcs.0", "name", "from", "to", "processor", "createdAt", "procs").has("systemProcs.0.procs.0.name", "zz_list1")
	a = w.get("/v1/system-procs?after=zz_list2&limit=2").is(200)
	a.hasExactly("", "systemProcs").has("systemProcs.0.name", "zz_list3")
	if w.get("/v1/system-procs?after=zz_list3").is(200).Text != `{"systemProcs":[]}`+"\n" {
		w.t.Error("the end of the list is not an empty array")
	}
	for _, query := range []string{"limit=0", "limit=x", "after=a%20b", "kind=system", "limit=1&limit=2"} {
		w.get("/v1/system-procs?" + query).is(400)
	}
	// They are among the procs, by kind.
	a = w.get("/v1/procs?kind=system&topic=list_a").is(200)
	if len(a.list("procs")) != 3 {
		w.t.Errorf("procs of the kind: %s", a.Text)
	}
	if n := len(w.get("/v1/procs?kind=proc&topic=list_a").is(200).list("procs")); n != 0 {
		w.t.Errorf("%d procs of another kind", n)
	}
}

func testUnknownSystemProc(w procWire) {
	w.send(http.MethodPut, "/v1/procs/unknown_p", `{"topic":"unknown_a"}`).is(201) // a proc is no systemProc
	for _, name := range []string{"nobody", "unknown_p"} {
		w.get("/v1/system-procs/"+name).isProblem(404, "invalid_system_proc")
		w.send(http.MethodPatch, "/v1/system-procs/"+name, `{"count":1}`).isProblem(404, "invalid_system_proc")
		w.send(http.MethodDelete, "/v1/system-procs/"+name, "").isProblem(404, "invalid_system_proc")
	}
	w.get("/v1/system-procs/a%20b").isProblem(400, "invalid_proc_format")
	w.send(http.MethodPut, "/v1/system-procs/nobody", `{}`).isProblem(405, "method_not_allowed")
	w.send(http.MethodDelete, "/v1/system-procs", "").isProblem(405, "method_not_allowed")
}

func testBadSystemProcs(w procWire) {
	const ok = `"name":"bad","from":"bad_a"`
	url := `"processor":"` + nowhere + `"`
	for body, code := range map[string]string{
		``: "invalid_request", `{}`: "invalid_proc_format", `[]`: "invalid_request", `null`: "invalid_request", `{"name":`: "invalid_request",
		`{` + ok + `}`: "no_valid_processor_provided", `{` + ok + `,"processor":null}`: "no_valid_processor_provided",
		`{"from":"bad_a",` + url + `}`: "invalid_proc_format", `{"name":"b d","from":"bad_a",` + url + `}`: "invalid_proc_format",
		`{"name":"","from":"bad_a",` + url + `}`: "invalid_proc_format", `{"name":7,"from":"bad_a",` + url + `}`: "invalid_request",
		`{"name":"bad",` + url + `}`: "invalid_request", `{"name":"bad","from":[],` + url + `}`: "invalid_request",
		`{"name":"bad","from":"",` + url + `}`: "invalid_topic_format", `{"name":"bad","from":["a b"],` + url + `}`: "invalid_topic_format",
		`{"name":"bad","from":[7],` + url + `}`: "invalid_request", `{"name":"bad","from":["a","a"],` + url + `}`: "invalid_request",
		`{` + ok + `,"to":"a b",` + url + `}`: "invalid_topic_format", `{` + ok + `,"to":["x","x"],` + url + `}`: "invalid_request",
		`{` + ok + `,"to":{},` + url + `}`:       "invalid_request",
		`{` + ok + `,"offset":"5-",` + url + `}`: "invalid_range_offset", `{` + ok + `,"offset":"",` + url + `}`: "invalid_range_offset",
		`{` + ok + `,"offset":"99999999999999",` + url + `}`: "invalid_range_offset", // after the clock
		`{` + ok + `,"count":0,` + url + `}`:                 "invalid_request", `{` + ok + `,"count":10001,` + url + `}`: "invalid_request",
		`{` + ok + `,"count":1.5,` + url + `}`: "invalid_request", `{` + ok + `,"maxReclaims":-2,` + url + `}`: "invalid_request",
		`{` + ok + `,"reclaimTimeout":0,` + url + `}`: "invalid_request", `{` + ok + `,"reclaimTimeout":-2,` + url + `}`: "invalid_request",
		`{` + ok + `,"onMaxReclaimsReached":"stop",` + url + `}`: "invalid_request",
		`{` + ok + `,"wait":1,` + url + `}`:                      "invalid_request", `{` + ok + `,"Count":1,` + url + `}`: "invalid_request",
		`{` + ok + `,"count":1,"count":1,` + url + `}`:                                   "invalid_request",
		`{` + ok + `,"processor":""}`:                                                    "no_valid_processor_provided",
		`{` + ok + `,"processor":7}`:                                                     "no_valid_processor_provided",
		`{` + ok + `,"processor":[]}`:                                                    "no_valid_processor_provided",
		`{` + ok + `,"processor":{}}`:                                                    "no_valid_processor_provided",
		`{` + ok + `,"processor":"/path"}`:                                               "no_valid_processor_provided",
		`{` + ok + `,"processor":"example.com"}`:                                         "no_valid_processor_provided",
		`{` + ok + `,"processor":"ftp://example.com/"}`:                                  "no_valid_processor_provided",
		`{` + ok + `,"processor":"file:///etc/passwd"}`:                                  "no_valid_processor_provided",
		`{` + ok + `,"processor":"http://"}`:                                             "no_valid_processor_provided",
		`{` + ok + `,"processor":"http://u:p@example.com/"}`:                             "no_valid_processor_provided",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","inline":"x"}}`:                "no_valid_processor_provided",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","headers":{"Host":"x"}}}`:      "no_valid_processor_provided",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","headers":{"X":"a\r\nY: b"}}}`: "no_valid_processor_provided",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","headers":{"X":7}}}`:           "invalid_request",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","retries":7}}`:                 "invalid_request",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","timeout":0}}`:                 "invalid_request",
		`{` + ok + `,"processor":{"url":"` + nowhere + `","timeout":10000}}`:             "invalid_request",
	} {
		w.post("/v1/system-procs", body).isProblem(400, code)
	}
	w.get("/v1/system-procs/bad").isProblem(404, "invalid_system_proc")
	w.get("/v1/procs/bad").isProblem(404, "invalid_proc")
	resp, err := w.Do(w.t.Context(), http.MethodPost, "/v1/system-procs", strings.NewReader("{}"), http.Header{"Content-Type": {"text/plain"}})
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnsupportedMediaType {
		w.t.Errorf("text/plain: %d", resp.StatusCode)
	}
}

// testManagedProcs holds what users may do to a systemProc's and a liveProc's proc by the proc routes, and what not.
func testManagedProcs(w procWire) {
	w.commit("managed_a", 3)
	w.systemProc("managed", "managed_a", nowhere)
	live := w.post("/v1/live-procs", `{"topic":"managed_a","mode":"all"}`).is(201).str("name")
	for _, name := range []string{"managed", live} {
		proc := "/v1/procs/" + name
		before := w.proc(name)
		for _, body := range []string{``, `{}`, `{"topic":"managed_a"}`, `{"topic":"another"}`, `{"wait":60000}`} {
			w.post(proc+"/claim", body).isProblem(409, "proc_is_managed")
		}
		w.post("/v1/claims", fmt.Sprintf(`{"procs":[{"name":%q,"topic":"managed_a"}]}`, name)).isProblem(409, "proc_is_managed")
		for _, options := range []string{`{"topic":"managed_a"}`, `{"topic":"managed_a","count":5}`, `{"topic":"another"}`} {
			w.send(http.MethodPut, proc, options).isProblem(409, "proc_is_managed")
		}
		w.send(http.MethodDelete, proc, "").isProblem(409, "proc_is_managed")
		// 400s come first.
		w.post(proc+"/claim", `{"count":0}`).isProblem(400, "invalid_request")
		w.send(http.MethodPut, proc, `{"topic":"managed_a","offset":"x"}`).isProblem(400, "invalid_range_offset")
		w.proc(name).tellsAs(before)

		for _, op := range []struct{ path, body string }{{"/ack", `{"token":"no"}`}, {"/reclaim", `{"token":"no"}`},
			{"/extend", `{"token":"no"}`}, {"/ack-commit", `{"token":"no","logs":{"topic":"managed_o","body":{}}}`}} {
			w.post(proc+op.path, op.body).isProblem(409, "claim_lost")
		}

		w.send(http.MethodPatch, proc, `{"count":2,"maxReclaims":3}`).is(200).has("count", 2).has("maxReclaims", 3)
		w.post(proc+"/seek", `{"offset":":0"}`).is(200).has("lag", 2)
		w.post(proc+"/disable", ``).is(200).has("status", "disabled")
		w.post(proc+"/disable", ``).isProblem(409, "proc_already_disabled")
		w.post(proc+"/claim", ``).isProblem(409, "proc_is_managed") // before proc_is_disabled
		w.post(proc+"/resume", ``).is(200).has("status", "active")
		w.post(proc+"/resume", ``).isProblem(409, "proc_already_active")
	}
	// Without a token: a systemProc's claim is its processor's alone.
	for _, op := range []struct{ path, body string }{{"/ack", ``}, {"/ack", `{}`}, {"/reclaim", ``},
		{"/ack-commit", `{"logs":{"topic":"managed_o","body":{}}}`}} {
		w.post("/v1/procs/managed"+op.path, op.body).isProblem(409, "proc_is_managed")
	}
	w.get("/v1/topics/managed_o").isProblem(404, "invalid_topic")
	w.post("/v1/procs/managed/extend", `{}`).isProblem(400, "invalid_request")
	// A liveProc's is not.
	w.post("/v1/procs/"+live+"/ack", ``).isProblem(409, "invalid_ack")
	w.post("/v1/procs/"+live+"/reclaim", ``).isProblem(409, "nothing_to_reclaim")

	// The other way round: no proc is made under their names, and they have no live-procs routes.
	w.send(http.MethodDelete, "/v1/live-procs/managed", "").isProblem(404, "invalid_proc")
	w.send(http.MethodDelete, "/v1/system-procs/"+live, "").isProblem(404, "invalid_system_proc")
}

func testTopicOfSystemProcs(w procWire) {
	w.commit("topic_a", 1)
	w.commit("topic_b", 1)
	w.post("/v1/system-procs", `{"name":"topic","from":["topic_a","topic_b"],"processor":"`+nowhere+`"}`).is(201)
	w.send(http.MethodDelete, "/v1/topics/topic_a", "").isProblem(409, "topic_in_use")
	w.send(http.MethodDelete, "/v1/topics/topic_a?force=true", "").isEmpty(204)
	w.get("/v1/procs/topic__topic_a").isProblem(404, "invalid_proc")
	if from := w.get("/v1/system-procs/topic").is(200).strs("from"); strings.Join(from, " ") != "topic_b" {
		w.t.Errorf("from: %v", from)
	}
	w.send(http.MethodDelete, "/v1/topics/topic_b?force=true", "").isEmpty(204)
	w.get("/v1/procs/topic__topic_b").isProblem(404, "invalid_proc")
}

func testNothingRuns(w procWire) {
	p := newProcessor(w.t)
	w.commit("idle_a", 1)
	w.systemProc("idle", "idle_a", p.URL)
	w.commit("idle_a", 1)
	w.post("/v1/wait", `{"procs":["idle"],"timeout":300}`).is(200).has("done", false).has("procs.0.lag", 2)
	p.idle()
	w.proc("idle").has("claim", nil)
}

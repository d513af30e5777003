package httpapi

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

func TestRange(t *testing.T) {
	var got api.RangeQuery
	s := New(Config{Logs: logs{rng: func(topic string, q api.RangeQuery) (api.Page, error) {
		got = q
		return api.Page{}, nil
	}}})
	const maxInt = "9223372036854775807"
	for query, want := range map[string]api.RangeQuery{
		"":                               {Limit: 1000},
		"limit=-1":                       {Limit: 1000},
		"limit=1":                        {Limit: 1},
		"limit=10000":                    {Limit: 10000},
		"start=5-6&end=:7":               {Limit: 1000, Start: api.Bound{Form: api.BoundID, ID: id(5, 6)}, End: api.Bound{Form: api.BoundSeq, ID: id(0, 7)}},
		"start=%3A7":                     {Limit: 1000, Start: api.Bound{Form: api.BoundSeq, ID: id(0, 7)}},
		"end=" + maxInt:                  {Limit: 1000, End: api.Bound{Form: api.BoundTime, ID: id(math.MaxInt64, 0)}},
		"exclusive=true":                 {Limit: 1000, Exclusive: true},
		"exclusive=false":                {Limit: 1000},
		"direction=reverse":              {Limit: 1000, Reverse: true},
		"direction=forward":              {Limit: 1000},
		"end=" + maxInt + "-" + maxInt:   {Limit: 1000, End: api.Bound{Form: api.BoundID, ID: id(math.MaxInt64, math.MaxInt64)}},
		"direction=reverse&start=:3&end": {}, // an empty bound is none of the forms
	} {
		a := call(t, s, "GET", "/v1/topics/t/logs?"+query, "")
		if want.Limit == 0 {
			a.wantsProblem(t, 400, api.CodeInvalidRangeOffset)
			continue
		}
		a.wants(t, 200, `{"logs":[]}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
}

func TestRangeRefusals(t *testing.T) {
	s := New(Config{})
	for _, limit := range []string{"0", "-2", "10001", "x", "", "1.0", "1e3", "%2B5", "%205", "0x10", "9223372036854775808", "--1", "-01"} {
		call(t, s, "GET", "/v1/topics/t/logs?limit="+limit, "").wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	for _, query := range []string{"exclusive=1", "exclusive=", "exclusive=True", "direction=backward", "direction="} {
		call(t, s, "GET", "/v1/topics/t/logs?"+query, "").wantsProblem(t, 400, api.CodeInvalidRequest)
	}
	for _, bound := range []string{"x", ":", "-", "1-", "-1", "1-2-3", "::1", ":-1", "%2B1", "1.5", "%201", "1-:2", "0x1",
		"9223372036854775808", "1-9223372036854775808", ":9223372036854775808", "%00", "%FF", strings.Repeat("9", 500)} {
		call(t, s, "GET", "/v1/topics/t/logs?start="+bound, "").wantsProblem(t, 400, api.CodeInvalidRangeOffset)
		call(t, s, "GET", "/v1/topics/t/logs?end="+bound, "").wantsProblem(t, 400, api.CodeInvalidRangeOffset)
		call(t, s, "GET", "/v1/topics/t/logs/"+bound, "").wantsProblem(t, 400, api.CodeInvalidRangeOffset)
		call(t, s, "POST", "/v1/procs/p/seek", `{"offset":`+strconv.Quote(strings.ReplaceAll(bound, "%", "."))+`}`).
			wantsProblem(t, 400, api.CodeInvalidRangeOffset)
	}
}

func TestOneLog(t *testing.T) {
	var got api.Bound
	s := New(Config{Logs: logs{log: func(_ string, at api.Bound) (api.Log, error) {
		got = at
		return api.Log{}, api.Errorf(api.CodeLogNotFound, "none")
	}}})
	call(t, s, "GET", "/v1/topics/t/logs/5-6", "").wantsProblem(t, 404, api.CodeLogNotFound)
	if got != (api.Bound{Form: api.BoundID, ID: id(5, 6)}) {
		t.Error(got)
	}
	call(t, s, "GET", "/v1/topics/t/logs/:6", "").wantsProblem(t, 404, api.CodeLogNotFound)
	if got != (api.Bound{Form: api.BoundSeq, ID: id(0, 6)}) {
		t.Error(got)
	}
	call(t, s, "GET", "/v1/topics/t/logs/1518951480106", "").wantsProblem(t, 400, api.CodeInvalidRangeOffset)
}

func TestTopics(t *testing.T) {
	type page struct {
		after string
		limit int
	}
	var got page
	var forced bool
	one := api.Topic{Name: "t", Length: 1, Committed: 2, FirstID: &api.ID{TS: 3, Seq: 1}, LastID: &api.ID{TS: 3, Seq: 1}, CreatedAt: 9}
	s := New(Config{Topics: topics{
		topic: func(name string) (api.Topic, error) { return api.Topic{Name: name, CreatedAt: 9}, nil },
		list: func(after string, limit int) (api.TopicList, error) {
			got = page{after, limit}
			if after == "" {
				return api.TopicList{Topics: []api.Topic{one}, Next: "t"}, nil
			}
			return api.TopicList{}, nil
		},
		remove: func(_ string, force bool) error { forced = force; return nil },
	}})
	call(t, s, "GET", "/v1/topics/t", "").wants(t, 200, `{"name":"t","length":0,"committed":0,"firstId":null,"lastId":null,"createdAt":9}`)
	call(t, s, "GET", "/v1/topics", "").wants(t, 200, `{"topics":[{"name":"t","length":1,"committed":2,"firstId":"3-1","lastId":"3-1","createdAt":9}],"next":"t"}`)
	if got != (page{"", 100}) {
		t.Error(got)
	}
	call(t, s, "GET", "/v1/topics?after=t&limit=1000", "").wants(t, 200, `{"topics":[]}`)
	if got != (page{"t", 1000}) {
		t.Error(got)
	}
	for _, limit := range []string{"0", "-1", "1001", "x", ""} {
		for _, path := range []string{"/v1/topics", "/v1/procs", "/v1/system-procs"} {
			call(t, s, "GET", path+"?limit="+limit, "").wantsProblem(t, 400, api.CodeInvalidRequest)
		}
	}
	for _, after := range []string{"", "%00", "a.b", "%FF"} {
		call(t, s, "GET", "/v1/topics?after="+after, "").wantsProblem(t, 400, api.CodeInvalidTopicFormat)
		call(t, s, "GET", "/v1/procs?after="+after, "").wantsProblem(t, 400, api.CodeInvalidProcFormat)
		call(t, s, "GET", "/v1/system-procs?after="+after, "").wantsProblem(t, 400, api.CodeInvalidProcFormat)
	}

	for query, want := range map[string]bool{"": false, "?force=true": true, "?force=false": false} {
		a := call(t, s, "DELETE", "/v1/topics/t"+query, "")
		a.wants(t, 204, "")
		if forced != want {
			t.Errorf("%q: forced %t", query, forced)
		}
	}
	call(t, s, "DELETE", "/v1/topics/t?force=1", "").wantsProblem(t, 400, api.CodeInvalidRequest)
	s.Topics = topics{remove: func(string, bool) error { return api.Errorf(api.CodeTopicInUse, "in use") }}
	call(t, s, "DELETE", "/v1/topics/t", "").wantsProblem(t, 409, api.CodeTopicInUse)
}

package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

func TestWaitRequest(t *testing.T) {
	for text, want := range map[string]struct {
		code  api.Code
		names []string
	}{
		`{}`:                                     {"", nil},
		`{"procs":["b","a"]}`:                    {"", []string{"b", "a"}},
		`{"procs":["b","a"],"upTo":{"a":"5-6"}}`: {"", []string{"b", "a"}},
		`{"procs":["a"],"upTo":{}}`:              {"", []string{"a"}},
		`{"upTo":{"b":"5-6","a":"0-0"}}`:         {"", []string{"a", "b"}},
		`{"upTo":null}`:                          {"", nil},
		`{"upTo":{"b":"5-6","a":null}}`:          {"", []string{"b"}}, // a null member is an absent one

		`{"procs":[]}`:                                    {code: api.CodeInvalidRequest},
		`{"upTo":{}}`:                                     {code: api.CodeInvalidRequest},
		`{"upTo":{"a":null}}`:                             {code: api.CodeInvalidRequest},
		`{"upTo":[]}`:                                     {code: api.CodeInvalidRequest},
		`{"upTo":"5-6"}`:                                  {code: api.CodeInvalidRequest},
		`{"upTo":{"a":5}}`:                                {code: api.CodeInvalidRequest},
		`{"upTo":{"a":{}}}`:                               {code: api.CodeInvalidRequest},
		`{"upTo":{"a":"5-6","a":"5-7"}}`:                  {code: api.CodeInvalidRequest},
		`{"procs":["a"],"upTo":{"b":"5-6"}}`:              {code: api.CodeInvalidRequest},
		`{"upTo":{"b.d":"5-6"}}`:                          {code: api.CodeInvalidProcFormat},
		`{"upTo":{"":"5-6"}}`:                             {code: api.CodeInvalidProcFormat},
		`{"upTo":{"a":""}}`:                               {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":"5"}}`:                              {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":":6"}}`:                             {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":"$>"}}`:                             {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":"5-6 "}}`:                           {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":"-5-6"}}`:                           {code: api.CodeInvalidRangeOffset},
		`{"upTo":{"a":"5-9223372036854775808"}}`:          {code: api.CodeInvalidRangeOffset},
		`{"procs":["a"],"upTo":{"a":"5-6"},"timeout":-1}`: {code: api.CodeInvalidRequest},

		`{"procs":["a"` + strings.Repeat(`,"a"`, api.MaxWaitProcs-1) + `]}`: {"", slices.Repeat([]string{"a"}, api.MaxWaitProcs)},
		`{"procs":["a"` + strings.Repeat(`,"a"`, api.MaxWaitProcs) + `]}`:   {code: api.CodeInvalidRequest},
	} {
		var req api.WaitRequest
		err := api.DecodeJSON([]byte(text), &req)
		if err == nil {
			err = req.Validate()
		}
		if api.CodeOf(err) != want.code {
			t.Errorf("%s: %v, want %q", text, err, want.code)
		} else if err == nil {
			if diff := cmp.Diff(want.names, req.Names()); diff != "" {
				t.Errorf("%s: names (-want +got):\n%s", text, diff)
			}
		}
	}
}

func TestWaitIsMet(t *testing.T) {
	const most = 1<<63 - 1
	for _, c := range []struct {
		position, head int64
		upTo           *api.ID
		want           bool
	}{
		{0, 0, nil, true},
		{2, 3, nil, false},
		{3, 3, nil, true},
		{9, 3, nil, true},
		{2, 3, &api.ID{TS: 7, Seq: 2}, false},
		{2, 3, &api.ID{TS: 7, Seq: 1}, true},
		{3, 3, &api.ID{TS: 7, Seq: 2}, true},
		{3, 3, &api.ID{TS: 7, Seq: 3}, false}, // not there yet
		{0, 0, &api.ID{TS: 0, Seq: 0}, false},
		{most, 3, &api.ID{TS: most, Seq: most - 1}, true},
		{most, 3, &api.ID{TS: most, Seq: most}, false},
	} {
		p := api.Proc{Name: "p", Position: c.position}
		p.SetLag(c.head)
		req := api.WaitRequest{UpTo: map[string]api.ID{"other": {}}}
		if c.upTo != nil {
			req.UpTo["p"] = *c.upTo
		}
		if got := req.Met(&p); got != c.want {
			t.Errorf("position %d of %d, up to %v: %t", c.position, c.head, c.upTo, got)
		}
	}
}

package api_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"unicode/utf8"

	"pipeproc/api"
)

// refusal fails unless err is one of the codes that a caller may be told.
func refusal(t *testing.T, err error, codes ...api.Code) {
	t.Helper()
	if err != nil && !slices.Contains(codes, api.CodeOf(err)) {
		t.Fatalf("%v: want one of %v", err, codes)
	}
}

func FuzzID(f *testing.F) {
	for _, s := range []string{"", "1518951480106-0", "-", "1-", "-1", "+1-2", "9223372036854775808-0", "1-2-3", "１-２", "1 -2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := api.ParseID(s)
		refusal(t, err, api.CodeInvalidRangeOffset)
		if err != nil {
			return
		}
		again, err := api.ParseID(id.String())
		if err != nil || again != id {
			t.Fatalf("%q is %v, and again %v, %v", s, id, again, err)
		}
		if id.TS < 0 || id.Seq < 0 {
			t.Fatalf("%q is negative: %v", s, id)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"", "..", "1-0..1-0", "1-0..", "1-0...2-1", "1-0..2-1..3-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := api.ParseRange(s)
		refusal(t, err, api.CodeInvalidRangeOffset)
		if err != nil {
			return
		}
		if again, err := api.ParseRange(r.String()); err != nil || again != r {
			t.Fatalf("%q is %v, and again %v, %v", s, r, again, err)
		}
	})
}

// FuzzPlaces resolves any two bounds and any offset in a small topic, and compares with a walk over its logs.
func FuzzPlaces(f *testing.F) {
	for _, s := range []string{"", ">", "$>", "earliest", "latest", ":0", ":3", ":9", ":9223372036854775807", "100", "104", "100-0", "103-9",
		"9223372036854775807-9223372036854775807", "0-0", "x", "-1"} {
		f.Add(s, "104-4", true, uint8(2))
		f.Add("100", s, false, uint8(0))
	}
	f.Fuzz(func(t *testing.T, a, b string, exclusive bool, collected uint8) {
		ids := []api.ID{{TS: 100, Seq: 0}, {TS: 100, Seq: 1}, {TS: 102, Seq: 2}, {TS: 103, Seq: 3}, {TS: 103, Seq: 4}, {TS: 110, Seq: 5}}
		first := int(collected) % (len(ids) + 1)
		kept := ids[first:]
		topic := api.TopicState{First: int64(first), Head: int64(len(ids)), LastTS: 110}
		if len(kept) > 0 {
			topic.FirstID = &kept[0]
		}
		search := func(ts int64) (int64, error) {
			for _, id := range kept {
				if id.TS >= ts {
					return id.Seq, nil
				}
			}
			return topic.Head, nil
		}
		offset, err := api.ParseOffset(a)
		refusal(t, err, api.CodeInvalidRangeOffset)
		if err == nil {
			start, err := topic.Start(offset, 110, search)
			refusal(t, err, api.CodeInvalidRangeOffset, api.CodeCollected)
			if err == nil && start < topic.First {
				t.Fatalf("offset %q starts at %d, before the first log %d", a, start, topic.First)
			}
			if again, err := api.ParseOffset(offset.String()); err != nil || again != offset {
				t.Fatalf("offset %q is %v, and again %v, %v", a, offset, again, err)
			}
		}

		low, err := api.ParseBound(a)
		refusal(t, err, api.CodeInvalidRangeOffset)
		high, err2 := api.ParseBound(b)
		refusal(t, err2, api.CodeInvalidRangeOffset)
		if err != nil || err2 != nil {
			return
		}
		from, to, err := topic.Resolve(low, high, exclusive, search)
		refusal(t, err, api.CodeInvalidToneIDSearch, api.CodeCollected)
		if err != nil {
			return
		}
		for _, id := range kept {
			want := above(id, low, exclusive) && below(id, high, exclusive)
			if got := from <= id.Seq && id.Seq < to; got != want {
				t.Fatalf("[%q, %q] exclusive=%v is [%d, %d): log %v in it: %v, want %v", a, b, exclusive, from, to, id, got, want)
			}
		}
	})
}

func above(id api.ID, b api.Bound, exclusive bool) bool {
	switch b.Form {
	case api.BoundID:
		return id.Compare(b.ID) > 0 || !exclusive && id == b.ID
	case api.BoundSeq:
		return id.Seq > b.ID.Seq || !exclusive && id.Seq == b.ID.Seq
	case api.BoundTime:
		return id.TS >= b.ID.TS
	}
	return true
}

func below(id api.ID, b api.Bound, exclusive bool) bool {
	switch b.Form {
	case api.BoundID:
		return id.Compare(b.ID) < 0 || !exclusive && id == b.ID
	case api.BoundSeq:
		return id.Seq < b.ID.Seq || !exclusive && id.Seq == b.ID.Seq
	case api.BoundTime:
		return id.TS <= b.ID.TS
	}
	return true
}

func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{``, `{}`, `null`, `[]`, `{"topic":"a","count":1}`, `{"topic":"a","topic":"b"}`, `{"Topic":"a"}`,
		`{"name":"a","from":["b"],"processor":{"url":"http://x","headers":{"a":"b","a":"c"}}}`, `{"from":null,"processor":null}`,
		`{"count":1e2}`, `{"count":99999999999999999999}`, "{\"topic\":\"\xff\"}", `{"processor":"http://x"}`, `{} {}`, `{"to":[null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var claim api.ClaimAnyRequest
		refusal(t, api.DecodeJSON(data, &claim), api.CodeInvalidRequest, api.CodeInvalidTopicFormat, api.CodeInvalidRangeOffset)
		if err := claim.Validate(); err != nil {
			refusal(t, err, api.CodeInvalidRequest, api.CodeInvalidTopicFormat, api.CodeInvalidProcFormat, api.CodeInvalidRangeOffset)
		}
		var spec api.SystemProcSpec
		err := api.DecodeJSON(data, &spec)
		refusal(t, err, api.CodeInvalidRequest, api.CodeInvalidRangeOffset, api.CodeNoValidProcessor)
		if err == nil {
			refusal(t, spec.Validate(), api.CodeInvalidRequest, api.CodeInvalidTopicFormat, api.CodeInvalidProcFormat,
				api.CodeInvalidRangeOffset, api.CodeNoValidProcessor)
		}
	})
}

func FuzzLogBody(f *testing.F) {
	for _, s := range []string{`{}`, ` [ 1e400 , "\ud800" ] `, `{"a":1,"a":2}`, `"x"`, `{"<&>":"\u0000"}`, "{\"\u2028\":1}", `{`, `[[[[`, "{\"a\":\"\xc3\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := api.LogBody(data)
		refusal(t, err, api.CodeInvalidLogFormat, api.CodeTooLarge, api.CodeInvalidRequest)
		if err != nil {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, data); err != nil || !bytes.Equal(body, want.Bytes()) {
			t.Fatalf("%q is %q, want %q (%v)", data, body, want.Bytes(), err)
		}
		again, err := api.LogBody(body)
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%q is %q the second time, %v", body, again, err)
		}
		if !utf8.Valid(body) || body[0] != '{' && body[0] != '[' {
			t.Fatalf("%q is taken", body)
		}
	})
}

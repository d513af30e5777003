package livestream

import (
	"encoding/json"
	"strings"
	"testing"

	"pipeproc/api"
)

// What a tail and a liveProc send.

func BenchmarkNewFrame(b *testing.B) {
	l := api.Log{ID: api.ID{TS: 1518951480106, Seq: 1234567}, Body: json.RawMessage(`{"text":"` + strings.Repeat("x", 89) + `"}`)}
	b.ReportAllocs()
	for b.Loop() {
		newFrame("orders", 7, l)
	}
}

func BenchmarkAppendClaimed(b *testing.B) {
	c := &api.Claimed{Proc: "liveproc-0b0c5d5e-7a55-4d0b-9d57-7b4f1b1c4e0f", Claim: api.Claim{Token: "token", Attempt: 1}}
	for i := range 100 {
		c.Logs = append(c.Logs, api.Log{ID: api.ID{TS: 1518951480106, Seq: int64(i)}, Body: json.RawMessage(`{"text":"` + strings.Repeat("x", 89) + `"}`)})
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendClaimed(buf[:0], c)
		b.SetBytes(int64(len(buf)))
	}
}

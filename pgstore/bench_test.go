package pgstore

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"pipeproc/api"
)

// BenchmarkCommitBatch gathers commits to one topic in a batch and encodes the arguments of its INSERT.
func BenchmarkCommitBatch(b *testing.B) {
	body := json.RawMessage(`{"text":"` + strings.Repeat("x", 89) + `"}`)
	types := pgtype.NewMap()
	encodeBodies(types)
	for _, size := range []struct{ requests, logs int }{{1, 1}, {64, 1}, {4, 1_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.requests, size.logs), func(b *testing.B) {
			logs := make([]api.NewLog, size.logs)
			for i := range logs {
				logs[i] = api.NewLog{Topic: "orders", Body: body}
			}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				batch := newBatch(&lane{store: &Store{}})
				batch.now = 1518951480106
				batch.topics["orders"] = &topicRow{id: 7, name: "orders", head: 1234567, stored: 1234567}
				for range size.requests {
					if err := (&commitOp{logs: logs}).apply(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
				buf = buf[:0]
				for _, column := range []struct {
					oid    uint32
					values any
				}{{pgtype.Int8ArrayOID, batch.logs.topics}, {pgtype.Int8ArrayOID, batch.logs.seqs}, {pgtype.Int8ArrayOID, batch.logs.tss},
					{pgtype.ByteaArrayOID, batch.logs.bodies}} {
					var err error
					if buf, err = types.Encode(column.oid, pgx.BinaryFormatCode, column.values, buf); err != nil {
						b.Fatal(err)
					}
				}
				b.SetBytes(int64(len(buf)))
			}
		})
	}
}

// BenchmarkQueueProcs gathers the columns of 64 procs that have claimed.
func BenchmarkQueueProcs(b *testing.B) {
	s := &Store{schema: `"pipeproc_default"`, sql: map[string]string{}}
	procs := make([]*procRow, 64)
	for i := range procs {
		p := &procRow{}
		r := api.NewRange(api.ID{TS: 1518951480106, Seq: int64(i)}, api.ID{TS: 1518951480106, Seq: int64(i)})
		p.Proc = api.Proc{ID: int64(i), Status: api.StatusActive, Count: 1, LastClaimedRange: r, PreviousClaimedRange: r, LastAckedRange: r,
			Claim: &api.Claim{Token: "0123456789012345678901", Range: r, Attempt: 1}}
		procs[i] = p
	}
	b.ReportAllocs()
	for b.Loop() {
		s.queueProcs(&pgx.Batch{}, procs)
	}
}

package api

import (
	"strings"
	"testing"
)

// What every commit, claim and ack goes through.

var benchBody = []byte(`{"text":"` + strings.Repeat("x", 89) + `"}`)

var sink string // what is thrown away might not be made

func BenchmarkLogBody(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(benchBody)))
	for b.Loop() {
		if _, err := LogBody(benchBody); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeJSON(b *testing.B) {
	log := `{"topic":"orders","body":` + string(benchBody) + `}`
	for name, data := range map[string]string{"one": "[" + log + "]", "thousand": "[" + strings.Repeat(log+",", 999) + log + "]"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				var logs []NewLog
				if err := DecodeJSON([]byte(data), &logs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkID(b *testing.B) {
	id := ID{TS: 1518951480106, Seq: 1234567}
	r := NewRange(id, ID{TS: 1518951480107, Seq: 1234667})
	text := r.String()
	buf := make([]byte, 0, 64)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = id.Append(buf[:0])
		}
	})
	b.Run("string", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = id.String()
		}
	})
	b.Run("range", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = r.String()
		}
	})
	b.Run("parse range", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseRange(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}

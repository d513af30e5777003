package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"pipeproc/api"
)

// Values of headers. They are shared, and never changed.
var (
	typeJSON    = []string{"application/json"}
	typeProblem = []string{"application/problem+json"}
	typeYAML    = []string{"application/yaml"}
	noStore     = []string{"no-store"}
)

// respond answers with v as JSON.
func respond(w http.ResponseWriter, status int, v any) error {
	return respondAs(w, status, typeJSON, v)
}

// respondUnless responds with what a call answered, unless it answered an error.
func respondUnless(err error, w http.ResponseWriter, status int, v any) error {
	if err != nil {
		return err
	}
	return respond(w, status, v)
}

func respondAs(w http.ResponseWriter, status int, contentType []string, v any) error {
	var b bytes.Buffer
	if err := encode(&b, v); err != nil {
		return err
	}
	b.WriteByte('\n')
	return send(w, status, contentType, b.Bytes())
}

// send writes a whole answer, step by step, each with its deadline.
func send(w http.ResponseWriter, status int, contentType []string, body []byte) error {
	rec := w.(*recorder)
	rec.length[0] = strconv.Itoa(len(body))
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = contentType, rec.length[:]
	c := http.NewResponseController(w)
	w.WriteHeader(status)
	for part := range slices.Chunk(body, step) {
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// sendFlushed is send that tells whether the connection took the whole answer.
func sendFlushed(w http.ResponseWriter, status int, contentType []string, body []byte) error {
	if err := send(w, status, contentType, body); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// encode writes v as JSON, without a line's end. Nothing is escaped that need not be.
func encode(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1)
	return nil
}

// encodeLogs writes logs as JSON. Their bodies are copied as they are: encoding/json would read each of them again.
func encodeLogs(b *bytes.Buffer, logs []api.Log) {
	size := 0
	for i := range logs {
		size += len(logs[i].Body) + 64
	}
	b.Grow(size)
	b.WriteByte('[')
	for i := range logs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"id":`)
		encodeID(b, logs[i].ID)
		b.WriteString(`,"body":`)
		b.Write(logs[i].Body)
		b.WriteByte('}')
	}
	b.WriteByte(']')
}

func encodeID(b *bytes.Buffer, id api.ID) {
	b.WriteByte('"')
	b.Write(id.Append(b.AvailableBuffer()))
	b.WriteByte('"')
}

// listed is list, but never null on the wire.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

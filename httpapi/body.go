package httpapi

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"pipeproc/api"
)

// How long a client may take over its part, so that a slow one holds no handler for ever: a time-out for each step of so
// many bytes. net/http lifts a read deadline when the body ends, a write deadline when the answer does; so neither
// strikes a request that waits.
const (
	readTimeout     = 30 * time.Second
	writeTimeout    = 30 * time.Second
	step            = 1 << 20
	detachedTimeout = 10 * time.Second // what is done for a client that has gone away
)

// validator is a request that knows the 400 it deserves.
type validator interface{ Validate() error }

// decode reads the body into v, strictly, and validates it.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	return decodeObject(data, v)
}

// decodeOptional is decode for routes whose members are all optional: no body is {}.
func decodeOptional(w http.ResponseWriter, r *http.Request, v any) error {
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		data = []byte("{}")
	}
	return decodeObject(data, v)
}

// decodeNothing is for routes that take no member: the body is empty or {}.
func decodeNothing(w http.ResponseWriter, r *http.Request) error {
	var nothing struct{}
	return decodeOptional(w, r, &nothing)
}

func decodeObject(data []byte, v any) error {
	if err := api.DecodeJSON(data, v); err != nil {
		return err
	}
	if first(data) != '{' { // null, which DecodeJSON takes for an absent value
		return api.Errorf(api.CodeInvalidRequest, "the body is not an object")
	}
	if v, ok := v.(validator); ok {
		return v.Validate()
	}
	return nil
}

// first is the first byte of the JSON text data, 0 when there is none.
func first(data []byte) byte {
	if data = bytes.TrimLeft(data, " \t\r\n"); len(data) > 0 {
		return data[0]
	}
	return 0
}

// What a body takes in memory grows with what has come of it, so that a client which only tells of a large one holds little.
const (
	firstRoom = 16 << 10
	growth    = 8
)

// readBody reads the whole body, which is JSON unless it is empty.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > api.MaxRequestSize {
		return nil, tooLarge()
	}
	if r.ContentLength > 0 {
		if err := checkMediaType(r.Header); err != nil {
			return nil, err
		}
	}
	size := api.MaxRequestSize + 1 // with room to see that it ends
	if r.ContentLength >= 0 {
		size = int(r.ContentLength) + 1
	}
	c := http.NewResponseController(w)
	var body []byte
	for timed := 0; ; {
		if len(body) == cap(body) {
			room := min(max(firstRoom, growth*cap(body)), size)
			if err := hold(w, room-cap(body)); err != nil {
				return nil, err
			}
			body = append(make([]byte, 0, room), body...)
		}
		if len(body) >= timed {
			_ = c.SetReadDeadline(time.Now().Add(readTimeout))
			timed = len(body) + step
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > api.MaxRequestSize:
			return nil, tooLarge()
		case errors.Is(err, io.EOF):
			if r.ContentLength < 0 && len(body) > 0 {
				return body, checkMediaType(r.Header)
			}
			return body, nil
		case err != nil:
			return nil, brokenOff(w)
		}
	}
}

// brokenOff is what is said of a body that did not come. The connection is of no more use.
func brokenOff(w http.ResponseWriter) error {
	w.Header().Set("Connection", "close")
	return api.Errorf(api.CodeInvalidRequest, "the body broke off, or took longer than %s for %d bytes", readTimeout, step)
}

func tooLarge() error {
	return api.Errorf(api.CodeTooLarge, "a request has at most %d bytes", api.MaxRequestSize)
}

// checkMediaType answers CodeUnsupportedMedia unless the body is plain JSON in UTF-8.
func checkMediaType(h http.Header) error {
	for _, coding := range h["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return api.Errorf(api.CodeUnsupportedMedia, "a body is sent as it is, without Content-Encoding")
		}
	}
	given := h["Content-Type"]
	if len(given) != 1 {
		return notJSON()
	}
	if given[0] == "application/json" { // as it mostly is
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(given[0])
	if err != nil || mediaType != "application/json" {
		return notJSON()
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return api.Errorf(api.CodeUnsupportedMedia, "the body's charset is utf-8")
	}
	return nil
}

func notJSON() error {
	return api.Errorf(api.CodeUnsupportedMedia,
		"the body needs Content-Type: application/json (curl: --json instead of --data)")
}

// drain reads what is left of the body of a request that is refused, within bounds: a client that is still sending would
// see its connection reset instead of the answer.
func drain(w http.ResponseWriter, r *http.Request) {
	broken := w.Header().Get("Connection") == "close"
	if broken || r.ContentLength == 0 {
		return
	}
	c := http.NewResponseController(w)
	if r.Header.Get("Expect") != "" && r.ProtoAtLeast(1, 1) { // who asks before sending sends nothing, but net/http waits for it
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(readTimeout))
	_, _ = io.CopyN(io.Discard, r.Body, 2*api.MaxRequestSize)
}

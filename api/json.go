package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"iter"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// DecodeJSON reads data into v, a pointer, more strictly than encoding/json: member names match exactly, unknown and
// duplicate members are refused, and so are trailing data and invalid UTF-8. A null member is an absent one. Types that
// implement json.Unmarshaler decide for themselves; json.RawMessage is the text as it is, a part of data, whose nesting is
// for DecodedLogBody to bound. A string member with the tag `empty:"code"` refuses "" with that code.
//
// Errors are CodeInvalidRequest, or what an Unmarshaler answers.
func DecodeJSON(data []byte, v any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	return decode(trim(data), reflect.ValueOf(v).Elem(), nil)
}

func checkJSON(data []byte) error {
	if len(trim(data)) == 0 {
		return Errorf(CodeInvalidRequest, "the body is empty: JSON is expected")
	}
	if !utf8.Valid(data) {
		return Errorf(CodeInvalidRequest, "the body is not valid UTF-8")
	}
	if !json.Valid(data) {
		var syntax *json.SyntaxError
		var v json.RawMessage
		if err := json.Unmarshal(data, &v); errors.As(err, &syntax) {
			return Errorf(CodeInvalidRequest, "malformed JSON at byte %d: %s", syntax.Offset, syntax.Error())
		}
		return Errorf(CodeInvalidRequest, "malformed JSON")
	}
	return nil
}

// depth is the deepest nesting of arrays and objects in data, which need not be valid.
func depth(data []byte) int {
	deepest, now := 0, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = stringEnd(data, i) - 1
		case '{', '[':
			now++
			deepest = max(deepest, now)
		case '}', ']':
			now--
		}
	}
	return deepest
}

// LogBody checks and compacts the body of a log: a JSON object or array, valid UTF-8, at most MaxBodySize and MaxDepth
// deep. All else stays byte for byte; what is compact already is answered as the part of data that it is. Errors:
// CodeInvalidLogFormat, CodeTooLarge, and CodeInvalidRequest for what is no JSON at all.
func LogBody(data []byte) (json.RawMessage, error) {
	if len(trim(data)) == 0 {
		return DecodedLogBody(nil)
	}
	if utf8.Valid(data) && depth(data) > MaxDepth { // which is no matter of syntax, but json's depth has its limit, too
		return nil, tooDeep()
	}
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	return DecodedLogBody(data)
}

// DecodedLogBody is LogBody of what DecodeJSON has taken, as valid JSON, or of nothing.
func DecodedLogBody(data []byte) (json.RawMessage, error) {
	text := trim(data)
	switch {
	case len(text) == 0:
		return nil, Errorf(CodeInvalidLogFormat, "the log has no body: a JSON object or array is expected")
	case depth(text) > MaxDepth:
		return nil, tooDeep()
	case text[0] != '{' && text[0] != '[':
		return nil, Errorf(CodeInvalidLogFormat, "a log's body is a JSON object or array")
	}
	body := compact(text)
	if len(body) > MaxBodySize {
		return nil, Errorf(CodeTooLarge, "a log's body has at most %d bytes, this one has %d", MaxBodySize, len(body))
	}
	return body, nil
}

func tooDeep() error {
	return Errorf(CodeInvalidLogFormat, "the log's body is nested deeper than %d", MaxDepth)
}

// compact is text, which is valid, without the whitespace between its tokens.
func compact(text []byte) []byte {
	var b []byte
	from := 0 // what is yet to be kept
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			i = stringEnd(text, i) - 1
		case isSpace(c):
			if b == nil {
				b = make([]byte, 0, len(text))
			}
			b = append(b, text[from:i]...)
			from = i + 1
		}
	}
	if b == nil {
		return text[:len(text):len(text)]
	}
	return append(b, text[from:]...)
}

func decode(raw []byte, v reflect.Value, at *place) error {
	switch u := v.Addr().Interface().(type) {
	case *json.RawMessage:
		*u = raw[:len(raw):len(raw)]
		return nil
	case json.Unmarshaler:
		return u.UnmarshalJSON(raw)
	}
	if string(raw) == "null" {
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return wrongType(at, "a string")
		}
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decode(raw, v.Elem(), at)
	case reflect.Struct:
		return decodeStruct(raw, v, at)
	case reflect.Slice:
		if raw[0] != '[' {
			return wrongType(at, "an array")
		}
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		in := place{around: at}
		for _, element := range elements(raw) {
			if string(element) == "null" {
				return wrongType(at, "an array without null")
			}
			n := v.Len()
			v.Grow(1)
			v.SetLen(n + 1)
			v.Index(n).SetZero()
			if err := decode(element, v.Index(n), &in); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		if raw[0] != '{' {
			return wrongType(at, "an object")
		}
		v.Set(reflect.MakeMap(v.Type()))
		for key, value := range elements(raw) {
			k := reflect.ValueOf(unquote(key)).Convert(v.Type().Key())
			if v.MapIndex(k).IsValid() {
				return Errorf(CodeInvalidRequest, "member %q is given twice", clip(place{at, key}.String()))
			}
			if string(value) == "null" {
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			if err := decode(value, e, &place{at, key}); err != nil {
				return err
			}
			v.SetMapIndex(k, e)
		}
		return nil
	case reflect.String:
		if isPlain(raw) {
			v.SetString(string(raw[1 : len(raw)-1]))
			return nil
		}
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(at, "a string")
		}
	case reflect.Bool:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(at, "true or false")
		}
	default:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(at, "a whole number in range")
		}
	}
	return nil
}

func decodeStruct(raw []byte, v reflect.Value, at *place) error {
	if raw[0] != '{' {
		return wrongType(at, "an object")
	}
	fields := fieldsOf(v.Type())
	var seen uint64
	for key, value := range elements(raw) {
		in := place{at, key}
		f, ok := fieldNamed(fields, key)
		if !ok {
			return Errorf(CodeInvalidRequest, "unknown member %q", clip(in.String()))
		}
		if seen&f.bit != 0 {
			return Errorf(CodeInvalidRequest, "member %q is given twice", clip(in.String()))
		}
		seen |= f.bit
		if err := decode(value, v.FieldByIndex(f.index), &in); err != nil {
			return err
		}
		if f.empty != "" && string(value) == `""` {
			return Errorf(f.empty, "member %q is empty", in.String())
		}
	}
	return nil
}

// field is a member of a struct. It has a bit of its own: no struct here has more than 64.
type field struct {
	index []int
	empty Code // of "", see DecodeJSON
	bit   uint64
}

// fields are the members of the structs that were decoded, by name: map[reflect.Type]map[string]field.
var fields sync.Map

func fieldsOf(t reflect.Type) map[string]field {
	if known, ok := fields.Load(t); ok {
		return known.(map[string]field)
	}
	all := map[string]field{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			all[name] = field{f.Index, Code(f.Tag.Get("empty")), 1 << len(all)}
		}
	}
	fields.Store(t, all)
	return all
}

// fieldNamed is the field of a member whose name stands as key in the text.
func fieldNamed(fields map[string]field, key []byte) (field, bool) {
	if isPlain(key) {
		f, ok := fields[string(key[1:len(key)-1])]
		return f, ok
	}
	f, ok := fields[unquote(key)]
	return f, ok
}

// place is where in a text something is: a member's name as it stands there, or nil for any element, in the place around it.
type place struct {
	around *place
	key    []byte
}

func (p place) String() string {
	name := "[]"
	if p.key != nil {
		name = unquote(p.key)
	}
	switch {
	case p.around == nil:
		return name
	case p.key == nil:
		return p.around.String() + name
	}
	return p.around.String() + "." + name
}

func wrongType(at *place, want string) error {
	if at == nil {
		return Errorf(CodeInvalidRequest, "the body is not %s", want)
	}
	return Errorf(CodeInvalidRequest, "member %q is not %s", clip(at.String()), want)
}

// isPlain tells that raw, which is valid, is a string without escapes.
func isPlain(raw []byte) bool { return raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 }

func unquote(raw []byte) string {
	if isPlain(raw) {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s) // valid: checked before
	return s
}

// elements walks the elements of an array (keys nil) or the members of an object, in valid JSON.
func elements(raw []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		object := raw[0] == '{'
		rest := trim(raw[1 : len(raw)-1])
		for len(rest) > 0 {
			var key []byte
			if object {
				n := valueEnd(rest)
				key, rest = rest[:n], trim(rest[n:])
				rest = trim(rest[1:]) // the colon
			}
			n := valueEnd(rest)
			value := rest[:n]
			if !yield(key, value) {
				return
			}
			if rest = trim(rest[n:]); len(rest) > 0 {
				rest = trim(rest[1:]) // the comma
			}
		}
	}
}

// valueEnd is the length of the JSON value that data begins with; data is valid.
func valueEnd(data []byte) int {
	nesting := 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			end := stringEnd(data, i)
			if nesting == 0 {
				return end
			}
			i = end - 1
		case c == '{' || c == '[':
			nesting++
		case c == '}' || c == ']':
			if nesting == 0 {
				return i
			}
			if nesting--; nesting == 0 {
				return i + 1
			}
		case nesting == 0 && (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			return i
		}
	}
	return len(data)
}

// stringEnd is where the string ends that begins at i: after its closing quote, or with data where it has none.
func stringEnd(data []byte, i int) int {
	quote := i
	for i++; i < len(data); {
		if quote < i {
			n := bytes.IndexByte(data[i:], '"')
			if n < 0 {
				break
			}
			quote = i + n
		}
		escape := bytes.IndexByte(data[i:quote], '\\')
		if escape < 0 {
			return quote + 1
		}
		i += escape + 2 // and the character after it, which may be the quote
	}
	return len(data)
}

func trim(data []byte) []byte {
	for len(data) > 0 && isSpace(data[0]) {
		data = data[1:]
	}
	for len(data) > 0 && isSpace(data[len(data)-1]) {
		data = data[:len(data)-1]
	}
	return data
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

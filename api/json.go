package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"iter"
	"reflect"
	"strings"
	"unicode/utf8"
)

// DecodeJSON reads data into v, a pointer, more strictly than encoding/json: member names match exactly, unknown and
// duplicate members are refused, and so are trailing data and invalid UTF-8. A null member is an absent one. Types that
// implement json.Unmarshaler decide for themselves; json.RawMessage keeps the text as it is, whose nesting is for LogBody
// to bound. A string member with the tag `empty:"code"` refuses "" with that code.
//
// Errors are CodeInvalidRequest, or what an Unmarshaler answers.
func DecodeJSON(data []byte, v any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	return decode(trim(data), reflect.ValueOf(v).Elem(), "")
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
	deepest, now, inString := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// LogBody checks and compacts the body of a log: a JSON object or array, valid UTF-8, at most MaxBodySize and MaxDepth
// deep. All else stays byte for byte. Errors: CodeInvalidLogFormat, CodeTooLarge, and CodeInvalidRequest for what is no
// JSON at all.
func LogBody(data []byte) (json.RawMessage, error) {
	text := trim(data)
	if len(text) == 0 {
		return nil, Errorf(CodeInvalidLogFormat, "the log has no body: a JSON object or array is expected")
	}
	if !utf8.Valid(text) {
		return nil, Errorf(CodeInvalidRequest, "the body is not valid UTF-8")
	}
	if depth(text) > MaxDepth {
		return nil, Errorf(CodeInvalidLogFormat, "the log's body is nested deeper than %d", MaxDepth)
	}
	var b bytes.Buffer
	b.Grow(len(text))
	if err := json.Compact(&b, text); err != nil { // it checks the syntax as it goes
		if err := checkJSON(text); err != nil { // which tells where
			return nil, err
		}
		return nil, Errorf(CodeInvalidRequest, "malformed JSON: %s", err.Error())
	}
	if text[0] != '{' && text[0] != '[' {
		return nil, Errorf(CodeInvalidLogFormat, "a log's body is a JSON object or array")
	}
	if b.Len() > MaxBodySize {
		return nil, Errorf(CodeTooLarge, "a log's body has at most %d bytes, this one has %d", MaxBodySize, b.Len())
	}
	return b.Bytes(), nil
}

func decode(raw []byte, v reflect.Value, path string) error {
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		return u.UnmarshalJSON(raw)
	}
	if string(raw) == "null" {
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return wrongType(path, "a string")
		}
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decode(raw, v.Elem(), path)
	case reflect.Struct:
		return decodeStruct(raw, v, path)
	case reflect.Slice:
		if raw[0] != '[' {
			return wrongType(path, "an array")
		}
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		for _, element := range elements(raw) {
			e := reflect.New(v.Type().Elem()).Elem()
			if string(element) == "null" {
				return wrongType(path, "an array without null")
			}
			if err := decode(element, e, path+"[]"); err != nil {
				return err
			}
			v.Set(reflect.Append(v, e))
		}
		return nil
	case reflect.Map:
		if raw[0] != '{' {
			return wrongType(path, "an object")
		}
		v.Set(reflect.MakeMap(v.Type()))
		for key, value := range elements(raw) {
			k := reflect.ValueOf(unquote(key)).Convert(v.Type().Key())
			if v.MapIndex(k).IsValid() {
				return Errorf(CodeInvalidRequest, "member %q is given twice", clip(join(path, unquote(key))))
			}
			if string(value) == "null" {
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			if err := decode(value, e, join(path, unquote(key))); err != nil {
				return err
			}
			v.SetMapIndex(k, e)
		}
		return nil
	case reflect.String:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(path, "a string")
		}
	case reflect.Bool:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(path, "true or false")
		}
	default:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return wrongType(path, "a whole number in range")
		}
	}
	return nil
}

func decodeStruct(raw []byte, v reflect.Value, path string) error {
	if raw[0] != '{' {
		return wrongType(path, "an object")
	}
	fields := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = f
		}
	}
	seen := make(map[string]bool, len(fields))
	for key, value := range elements(raw) {
		name := unquote(key)
		f, ok := fields[name]
		if !ok {
			return Errorf(CodeInvalidRequest, "unknown member %q", clip(join(path, name)))
		}
		if seen[name] {
			return Errorf(CodeInvalidRequest, "member %q is given twice", clip(join(path, name)))
		}
		seen[name] = true
		target := v.FieldByIndex(f.Index)
		if err := decode(value, target, join(path, name)); err != nil {
			return err
		}
		if code := f.Tag.Get("empty"); code != "" && string(value) == `""` {
			return Errorf(Code(code), "member %q is empty", join(path, name))
		}
	}
	return nil
}

func wrongType(path, want string) error {
	if path == "" {
		return Errorf(CodeInvalidRequest, "the body is not %s", want)
	}
	return Errorf(CodeInvalidRequest, "member %q is not %s", clip(path), want)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func unquote(raw []byte) string {
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
	nesting, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
			if !inString && nesting == 0 {
				return i + 1
			}
		case inString:
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

func trim(data []byte) []byte { return bytes.Trim(data, " \t\r\n") }

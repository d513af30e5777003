package procs

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dop251/goja"

	"pipeproc/api"
)

// reader makes the values of a runtime of JSON, as JSON.parse is to: members in the order that they are in, the last of
// duplicates, 1e400 as Infinity, lone surrogates kept (but for those in names of members).
type reader struct {
	vm   *goja.Runtime
	text string // valid JSON
	at   int
}

// read answers the value of valid JSON.
func read(vm *goja.Runtime, text string) goja.Value {
	r := &reader{vm: vm, text: text}
	return r.value()
}

// parse is the native part of JSON.parse(text, SyntaxError).
func parse(vm *goja.Runtime) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		text := call.Argument(0).String()
		if !json.Valid([]byte(text)) { // nor is what is nested deeper than 10,000
			var v json.RawMessage
			e, err := vm.New(call.Argument(1), vm.ToValue(json.Unmarshal([]byte(text), &v).Error()))
			if err != nil {
				panic(err)
			}
			panic(e)
		}
		return read(vm, text)
	}
}

// token skips white space and answers the byte after it.
func (r *reader) token() byte {
	for {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return c
		}
	}
}

func (r *reader) value() goja.Value {
	switch r.token() {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		return r.string()
	case 't':
		r.at += len("true")
		return r.vm.ToValue(true)
	case 'f':
		r.at += len("false")
		return r.vm.ToValue(false)
	case 'n':
		r.at += len("null")
		return goja.Null()
	}
	start := r.at
	for r.at < len(r.text) && strings.IndexByte("+-.0123456789eE", r.text[r.at]) >= 0 {
		r.at++
	}
	n, err := strconv.ParseFloat(r.text[start:r.at], 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range is ±Inf, as it should be
		panic(err)
	}
	return r.vm.ToValue(n)
}

func (r *reader) object() goja.Value {
	o := r.vm.NewObject()
	r.at++
	for r.token() != '}' {
		name := r.string().String()
		r.token() // the colon
		r.at++
		// Not Set, for which __proto__ is no member.
		if err := o.DefineDataProperty(name, r.value(), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE); err != nil {
			panic(err)
		}
		if r.token() == ',' {
			r.at++
		}
	}
	r.at++
	return o
}

func (r *reader) array() goja.Value {
	var elements []any
	r.at++
	for r.token() != ']' {
		elements = append(elements, r.value())
		if r.token() == ',' {
			r.at++
		}
	}
	r.at++
	return r.vm.NewArray(elements...)
}

func (r *reader) string() goja.Value {
	r.token()
	r.at++
	rest := r.text[r.at:]
	end := strings.IndexAny(rest, `"\`)
	if rest[end] == '"' {
		r.at += end + 1
		return r.vm.ToValue(strings.ToValidUTF8(rest[:end], "\ufffd"))
	}
	var units []uint16
	for {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			return goja.StringFromUTF16(units)
		case c == '\\':
			units = append(units, r.escape())
		default:
			char, size := utf8.DecodeRuneInString(r.text[r.at:])
			units = utf16.AppendRune(units, char)
			r.at += size
		}
	}
}

func (r *reader) escape() uint16 {
	c := r.text[r.at+1]
	r.at += 2
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'u':
		n, err := strconv.ParseUint(r.text[r.at:r.at+4], 16, 16)
		if err != nil {
			panic(err)
		}
		r.at += 4
		return uint16(n)
	}
	return uint16(c)
}

// gauge watches JSON.stringify at work, as its replacer, which is asked about every value: it stops it once the time is
// over, and when more would come out than may. Afterwards it would be too late: an array may claim to have 2³² elements.
type gauge struct {
	over    func() bool
	size    int            // at least that much comes out
	holders []*goja.Object // from the outermost to where it stands
	refused string         // why it was stopped, unless because of the time
}

func (g *gauge) replace(vm *goja.Runtime) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		value := call.Argument(1)
		holder, _ := call.This.(*goja.Object)
		for n := len(g.holders); n > 0 && g.holders[n-1] != holder; n-- {
			g.holders = g.holders[:n-1]
		}
		switch v := value.(type) {
		case *goja.Object:
			g.size += len("{}")
			g.holders = append(g.holders, v)
		case goja.String:
			g.size += v.Length() + len(`""`)
		default:
			if !goja.IsUndefined(value) || holder != nil && holder.ClassName() == "Array" {
				g.size++
			}
		}
		switch {
		case g.over():
			panic(vm.ToValue("over"))
		case g.size > maxAnswer:
			g.refused = tooLarge
			panic(vm.ToValue("too large"))
		case len(g.holders) > api.MaxDepth+1:
			g.refused = "the answer is nested deeper than " + strconv.Itoa(api.MaxDepth)
			panic(vm.ToValue("too deep"))
		}
		return value
	}
}

var tooLarge = "the answer is over " + strconv.Itoa(maxAnswer) + " bytes"

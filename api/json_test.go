package api_test

import (
	"strings"
	"testing"

	"pipeproc/api"
)

func TestDecodeJSONIsStrict(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		code api.Code
	}{
		"unknown member":        {`{"topic":"a","x":1}`, api.CodeInvalidRequest},
		"other case":            {`{"Topic":"a"}`, api.CodeInvalidRequest},
		"twice":                 {`{"topic":"a","topic":"a"}`, api.CodeInvalidRequest},
		"twice, escaped":        {`{"topic":"a","\u0074opic":"a"}`, api.CodeInvalidRequest},
		"wrong type":            {`{"topic":5}`, api.CodeInvalidRequest},
		"fraction":              {`{"count":1.5}`, api.CodeInvalidRequest},
		"number out of range":   {`{"count":1e30}`, api.CodeInvalidRequest},
		"string for a number":   {`{"count":"1"}`, api.CodeInvalidRequest},
		"array for an object":   {`[]`, api.CodeInvalidRequest},
		"trailing data":         {`{} {}`, api.CodeInvalidRequest},
		"trailing comma":        {`{"topic":"a",}`, api.CodeInvalidRequest},
		"single quotes":         {`{'topic':'a'}`, api.CodeInvalidRequest},
		"control character":     {"{\"topic\":\"a\nb\"}", api.CodeInvalidRequest},
		"invalid UTF-8":         {"{\"topic\":\"\xff\"}", api.CodeInvalidRequest},
		"byte order mark":       {"\ufeff{}", api.CodeInvalidRequest},
		"empty":                 {" ", api.CodeInvalidRequest},
		"too deep":              {strings.Repeat("[", 200) + strings.Repeat("]", 200), api.CodeInvalidRequest},
		"empty optional string": {`{"topic":""}`, api.CodeInvalidTopicFormat},
		"null is absent":        {`{"topic":null,"count":null}`, ""},
		"good":                  {" {\"topic\" : \"a\" ,\n\"count\":3, \"wait\":0 } ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var req api.ClaimRequest
			if err := api.DecodeJSON([]byte(c.text), &req); api.CodeOf(err) != c.code {
				t.Errorf("%s: %v, want %q", c.text, err, c.code)
			}
		})
	}
}

func TestLogBodyKeepsEveryByte(t *testing.T) {
	for _, text := range []string{
		`{"b":1,"a":2,"b":3}`, `[1e2,12345678901234567890,1e400,-0,1.0]`, `{"u":"\u0000\ud800\u00e9é<>&\/"}`, `[]`, `{}`,
		"[\"\u2028\"]",
	} {
		for _, spaced := range []string{text, " \n\t" + text + " "} {
			body, err := api.LogBody([]byte(spaced))
			if err != nil || string(body) != text {
				t.Errorf("%q became %q, %v", spaced, body, err)
			}
		}
	}
	deepest := strings.Repeat("[", api.MaxDepth) + strings.Repeat("]", api.MaxDepth)
	if _, err := api.LogBody([]byte(deepest)); err != nil {
		t.Errorf("depth %d: %v", api.MaxDepth, err)
	}
	for text, code := range map[string]api.Code{
		"[" + deepest + "]": api.CodeInvalidLogFormat,
		"":                  api.CodeInvalidLogFormat,
		"null":              api.CodeInvalidLogFormat,
		"1":                 api.CodeInvalidLogFormat,
		`"x"`:               api.CodeInvalidLogFormat,
		"true":              api.CodeInvalidLogFormat,
		"{":                 api.CodeInvalidRequest,
		"{}{}":              api.CodeInvalidRequest,
		"[\"\xff\"]":        api.CodeInvalidRequest,
		`["` + strings.Repeat("x", api.MaxBodySize-4) + `"]`: "",
		`["` + strings.Repeat("x", api.MaxBodySize-3) + `"]`: api.CodeTooLarge,
	} {
		if _, err := api.LogBody([]byte(text)); api.CodeOf(err) != code {
			t.Errorf("%.40q: %v, want %q", text, err, code)
		}
	}
}

//go:build security && linux

package security

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"pipeproc"
)

// bodyRoute is a route that takes a body, with names in the place of its parameters.
type bodyRoute struct{ method, path string }

var pathParameter = regexp.MustCompile(`\{[a-z]+\}`)

// bodyRoutes are all of them, as openapi.yaml tells.
func bodyRoutes(t *testing.T) (all []bodyRoute) {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(pipeproc.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.RequestBody != nil {
				all = append(all, bodyRoute{method, pathParameter.ReplaceAllString(path, "x")})
			}
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d routes take a body", len(all))
	}
	return all
}

// bombs are texts of up to 16 n bytes.
func bombs(n int) map[string]string {
	numbered := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	return map[string]string{
		"arrays, open":        strings.Repeat("[", 8*n),
		"arrays":              strings.Repeat("[", 4*n) + strings.Repeat("]", 4*n),
		"objects":             strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n),
		"objects, open":       strings.Repeat(`{"a":`, n),
		"both":                strings.Repeat(`[{"a":`, n) + "1" + strings.Repeat("}]", n),
		"closing alone":       strings.Repeat("]", 8*n),
		"deep in a member":    `{"topic":"x","body":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}",
		"deep in another":     `{"processor":{"headers":{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}}}",
		"a number":            `{"count":` + strings.Repeat("9", 8*n) + "}",
		"a fraction":          `{"count":0.` + strings.Repeat("1", 8*n) + "}",
		"an exponent":         `{"count":1e` + strings.Repeat("9", 8*n) + "}",
		"exponents":           "[" + strings.TrimSuffix(strings.Repeat("1e999999999,", n/2), ",") + "]",
		"a number alone":      strings.Repeat("1", 12*n),
		"minus":               strings.Repeat("-", 8*n),
		"members":             "{" + numbered(n/2, `"k%d":0,`) + "}",
		"members of a member": `{"name":"x","from":"x","processor":{"url":"http://127.0.0.1:1/","headers":{` + numbered(n/4, `"h%d":"",`) + "}}}",
		"the same member":     "{" + strings.TrimSuffix(strings.Repeat(`"topic":"x",`, n), ",") + "}",
		"the same, inside":    `{"name":"x","from":"x","processor":{"url":"http://127.0.0.1:1/","headers":{` + strings.TrimSuffix(strings.Repeat(`"h":"",`, n), ",") + "}}}",
		"the same, escaped":   "{" + strings.TrimSuffix(strings.Repeat(`"\u0074opic":"x",`, n/2), ",") + "}",
		"a member's name":     `{"` + strings.Repeat("k", 12*n) + `":1}`,
		"a string":            `{"topic":"` + strings.Repeat("x", 12*n) + `"}`,
		"a string, open":      `{"topic":"` + strings.Repeat("x", 12*n),
		"escapes":             `{"topic":"` + strings.Repeat(`\u0000`, 2*n) + `"}`,
		"backslashes":         `{"topic":"` + strings.Repeat(`\\`, 6*n) + `"}`,
		"half escapes":        `{"topic":"` + strings.Repeat(`\`, 8*n),
		"surrogates":          `{"topic":"` + strings.Repeat(`\ud800`, 2*n) + `"}`,
		"quotes":              strings.Repeat(`"`, 8*n),
		"elements":            "[" + strings.TrimSuffix(strings.Repeat("0,", 4*n), ",") + "]",
		"empty objects":       "[" + strings.TrimSuffix(strings.Repeat("{},", 4*n), ",") + "]",
		"logs":                "[" + strings.TrimSuffix(strings.Repeat(`{"topic":"x","body":{}},`, n/2), ",") + "]",
		"procs":               `{"procs":[` + strings.TrimSuffix(strings.Repeat(`{"name":"x"},`, n/2), ",") + "]}",
		"names":               `{"procs":[` + strings.TrimSuffix(strings.Repeat(`"x",`, 2*n), ",") + "]}",
		"topics":              `{"name":"x","from":[` + numbered(n/2, `"t%d",`) + `],"processor":"http://127.0.0.1:1/"}`,
		"spaces":              strings.Repeat(" ", 12*n) + "x",
		"commas":              "[" + strings.Repeat(",", 8*n) + "]",
		"colons":              "{" + strings.Repeat(":", 8*n) + "}",
		"NUL":                 strings.Repeat("\x00", 8*n),
		"bytes that are none": `{"topic":"` + strings.Repeat("\xff", 8*n) + `"}`,
	}
}

// TestJSONBombs: JSON that is deep, long, or full of members costs no more than its size tells, on any route that takes a body,
// and the refusal does not tell it back.
func TestJSONBombs(t *testing.T) {
	t.Parallel()
	s := launch(t, "--allow-shutdown")
	s.call("POST", "/v1/topics/y/logs", "{}").is(http.StatusCreated)
	s.call("PUT", "/v1/procs/x", `{"topic":"y","offset":"$>"}`).is(http.StatusCreated)
	routes := bodyRoutes(t)
	const small, large = 1 << 14, 1 << 19
	s.under(bounds{memory: 512, goroutines: 200, topics: []string{"x"}}, func() {
		slowest, which, sent := time.Duration(0), "", 0
		for _, size := range []int{small, large} {
			for name, bomb := range bombs(size) {
				for _, r := range routes {
					if size == large && !takesMuch[r.path] {
						continue
					}
					begun := time.Now()
					a := s.call(r.method, r.path, bomb)
					a.what += " " + name
					sent++
					if took := time.Since(begun); took > slowest {
						slowest, which = took, a.what
					}
					if takesLogs[r.path] && size == small && json.Valid([]byte(bomb)) && a.status == http.StatusCreated {
						continue // it is no more than there may be
					}
					if a.status < 400 || a.status >= 500 || a.problem() == "" {
						t.Errorf("%s: %d %.200s", a.what, a.status, a.body)
					}
					if len(a.body) > 1_000 {
						t.Errorf("%s: a refusal of %d bytes: %.300s", a.what, len(a.body), a.body)
					}
				}
			}
		}
		t.Logf("%d bombs; the slowest was refused after %d ms: %s", sent, slowest.Milliseconds(), which)
		if slowest > patience {
			t.Errorf("%s took %s", which, slowest)
		}
	})
}

// takesLogs are the routes that anything may be committed by.
var takesLogs = map[string]bool{"/v1/commit": true, "/v1/topics/x/logs": true}

// takesMuch are the routes that are sent the largest bombs: those that take lists, deep members and logs.
var takesMuch = map[string]bool{"/v1/commit": true, "/v1/topics/x/logs": true, "/v1/claims": true, "/v1/wait": true,
	"/v1/system-procs": true}

//go:build browser

package e2e

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"testing"
	"time"
)

// chromium is a running browser without a window. playwright-core drives it, in testdata/browser/drive.mjs.
type chromium struct {
	rpc *rpc.Client
}

// startChromium starts the program that CHROMIUM names (default: chromium). It ends with t.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	program, err := exec.LookPath(cmp.Or(os.Getenv("CHROMIUM"), "chromium"))
	if err != nil {
		t.Fatalf("no browser: %v; install Debian's package chromium, or name one by CHROMIUM", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("no Node.js: %v; make test-browser installs it", err)
	}
	if _, err := os.Stat("testdata/browser/node_modules/playwright-core"); err != nil {
		t.Fatalf("no playwright-core: %v; make test-browser installs it", err)
	}
	cmd := exec.CommandContext(t.Context(), node, "testdata/browser/drive.mjs", program)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	cmd.Cancel = stdin.Close // which ends the browser
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("the browser's end: %v", err)
		}
	})
	c := &chromium{jsonrpc.NewClient(struct {
		io.ReadCloser
		io.Writer
	}{stdout, stdin})}
	var version string
	if err := c.call("version", nil, &version); err != nil {
		t.Fatalf("%s does not start: %v", program, err)
	}
	t.Log("Chromium", version)
	return c
}

// call calls a method of drive.mjs and waits for its result.
func (c *chromium) call(method string, params, result any) error {
	select {
	case call := <-c.rpc.Go(method, params, result, nil).Done:
		return call.Error
	case <-time.After(streamPatience):
		return errors.New("no answer")
	}
}

// tab is a tab with a page.
type tab struct {
	*chromium
	t    *testing.T
	url  string
	page int
}

// open opens a page in a tab of its own, which is closed with t, and waits until it is loaded.
func (c *chromium) open(t *testing.T, url string) *tab {
	t.Helper()
	p := &tab{chromium: c, t: t, url: url}
	if err := c.call("open", url, &p.page); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	t.Cleanup(func() {
		if err := c.call("close", p.page, nil); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	})
	return p
}

// read reads the value of an expression, or of the promise that it is, into v.
func (p *tab) read(expression string, v any) {
	p.t.Helper()
	if err := p.evaluate(expression, v); err != nil {
		p.t.Fatalf("%s: %s: %v", p.url, expression, err)
	}
}

// until waits until a condition of the page is true.
func (p *tab) until(condition string) {
	p.t.Helper()
	if err := p.evaluate("until(() => "+condition+")", nil); err != nil {
		var state string
		_ = p.evaluate("document.body.innerText", &state)
		p.t.Fatalf("%s: never: %s: %v; the page:\n%s", p.url, condition, err, state)
	}
}

func (p *tab) evaluate(expression string, v any) error {
	return p.call("evaluate", map[string]any{"page": p.page, "expression": expression}, v)
}

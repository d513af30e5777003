package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pipeproc/api"
	"pipeproc/client"
	"pipeproc/livestream/ssetest"
)

// TestReadmePipeline runs every line of curl that README.md has, in its order, against a server and the Go example: with
// curl itself where there is one that knows --json, else with a few lines that do the same.
func TestReadmePipeline(t *testing.T) {
	t.Parallel()
	section := readmeSection(t, "../README.md", "## A pipeline with curl")
	s := start(t)
	d := document{t: t, replace: strings.NewReplacer("http://127.0.0.1:8080", s.URL,
		"http://127.0.0.1:9090/increment", startExample(t))}
	run := func(want string) string {
		t.Helper()
		return d.run(&section, want)
	}
	type ids struct{ IDs []string }

	d.run(&section, "go run ./examples/increment") // as startExample did
	committed := read[ids](t, run("/v1/commit"))
	if len(committed.IDs) != 2 || !strings.HasSuffix(committed.IDs[1], "-1") {
		t.Errorf("commit: %v", committed)
	}
	created := run("/v1/system-procs")
	if !strings.Contains(created, `"procs":[{"name":"increment"`) {
		t.Errorf("systemProc: %s", created)
	}

	live := d.stream(&section, "/v1/topics/incremented_numbers/live")
	if got := live.next("liveproc"); !strings.Contains(got, `"name":"liveproc-`) {
		t.Errorf("the first event: %s", got)
	}
	type batch struct {
		Proc  string
		Claim struct{ Token string }
		Logs  []struct {
			Body struct{ MyIncrementedNumber int }
		}
	}
	var numbers []int
	for ack := d.take(&section, "/ack"); len(numbers) < 2; { // the results may come in one batch or in two
		event := read[batch](t, live.next("logs"))
		for _, l := range event.Logs {
			numbers = append(numbers, l.Body.MyIncrementedNumber)
		}
		d.fill(event.Proc, event.Claim.Token)
		if got := d.do(ack); !strings.Contains(got, `"ackedLogId"`) {
			t.Errorf("ack: %s", got)
		}
	}
	if !slices.Equal(numbers, []int{2, 3}) {
		t.Errorf("results on the stream: %v", numbers)
	}

	tail := d.stream(&section, "/v1/tail")
	for _, want := range []string{`"body":{"myIncrementedNumber":2}`, `"body":{"myIncrementedNumber":3}`} {
		if got := tail.next("log"); !strings.Contains(got, want) {
			t.Errorf("tail: %s, want %s", got, want)
		}
	}

	if got := strings.Split(run("/v1/topics/incremented_numbers/logs"), "\n"); len(got) < 2 ||
		!strings.HasSuffix(got[0], `"body":{"myIncrementedNumber":2}}`) || !strings.HasSuffix(got[1], `"body":{"myIncrementedNumber":3}}`) {
		t.Errorf("lines: %q", got)
	}
	if got := run("/v1/topics/numbers/logs"); !strings.Contains(got, `-2"`) {
		t.Errorf("commit of a body: %s", got)
	}
	if got := run("/v1/wait"); !strings.Contains(got, `{"done":true,"procs":[{"name":"increment","lag":0}]}`) {
		t.Errorf("wait: %s", got)
	}
	logs := run("/v1/topics/incremented_numbers/logs")
	if got := regexp.MustCompile(`"body":\{[^}]*\}`).FindAllString(logs, -1); fmt.Sprint(got) !=
		`["body":{"myIncrementedNumber":2} "body":{"myIncrementedNumber":3} "body":{"myIncrementedNumber":42}]` {
		t.Errorf("results: %s", logs)
	}
	if got := live.next("logs"); !strings.Contains(got, `"myIncrementedNumber":42`) {
		t.Errorf("the live stream: %s", got)
	}
	if got := tail.next("log"); !strings.Contains(got, `"myIncrementedNumber":42`) {
		t.Errorf("the tail: %s", got)
	}

	claimed := read[batch](t, run("/v1/procs/my_proc/claim"))
	d.fill("my_proc", claimed.Claim.Token)
	if got := run("/v1/procs/my_proc/ack-commit"); !strings.Contains(got, `"id":"`) {
		t.Errorf("ack-commit: %s", got)
	}
	// What is given back is another claim's: the one before is acked.
	claimed = read[batch](t, d.do(`curl --json '{"topic": "numbers"}' http://127.0.0.1:8080/v1/procs/my_proc/claim`))
	d.fill("my_proc", claimed.Claim.Token)
	if got := run("/v1/procs/my_proc/reclaim"); !strings.Contains(got, `"lastClaimedRange":"`) {
		t.Errorf("reclaim: %s", got)
	}
	if len(section) > 0 {
		t.Errorf("README has more lines: %q", section)
	}
}

// TestExamplesPipeline does the same for the pipeline of examples/README.md.
func TestExamplesPipeline(t *testing.T) {
	t.Parallel()
	section := readmeSection(t, "../examples/README.md", "## The pipeline")
	s := start(t)
	d := document{t: t, replace: strings.NewReplacer("http://127.0.0.1:8080", s.URL,
		"http://127.0.0.1:9090/increment", startExample(t))}
	d.run(&section, "/v1/commit")
	d.run(&section, "/v1/system-procs")
	if got := d.run(&section, "/v1/wait"); !strings.Contains(got, `"done":true`) {
		t.Errorf("wait: %s", got)
	}
	if got := d.run(&section, "/v1/topics/incremented_numbers/logs"); !strings.Contains(got, `{"myIncrementedNumber":2}`) ||
		!strings.Contains(got, `{"myIncrementedNumber":3}`) {
		t.Errorf("results: %s", got)
	}
}

// TestReadmeSignedWebhooks rotates a secret as README.md tells, with the Go example verifying the calls.
func TestReadmeSignedWebhooks(t *testing.T) {
	t.Parallel()
	section := readmeSection(t, "../README.md", "## Signed webhooks")
	s := start(t)
	w := wireTo(t, s)
	d := document{t: t, replace: strings.NewReplacer("http://127.0.0.1:8080", s.URL)}
	type rotated struct {
		Secret            string
		PreviousExpiresAt *int64
	}
	url := startExample(t, "INCREMENT_SECRET="+secretA)
	w.systemProc("increment", "numbers", url, `"to":"incremented_numbers"`, `"secret":"`+secretA+`"`)
	w.commitBodies("numbers", `{"myNumber":1}`)
	w.done("increment")

	first := read[rotated](t, d.run(&section, "rotate-secret"))
	w.commitBodies("numbers", `{"myNumber":2}`)
	w.done("increment") // the example still knows the former one alone
	second := read[rotated](t, d.run(&section, "rotate-secret"))
	if first.PreviousExpiresAt == nil || second.PreviousExpiresAt != nil || first.Secret == second.Secret {
		t.Errorf("rotated: %+v, %+v", first, second)
	}
	w.commitBodies("numbers", `{"myNumber":3}`)
	if p := w.until("increment", "failed", func(p api.Proc) bool { return p.LastError != "" }); p.LastError != "the processor answered 401" {
		t.Errorf("a call with another secret: %s", p.LastError)
	}
	url = startExample(t, "INCREMENT_SECRET="+first.Secret+" "+second.Secret)
	w.send(http.MethodPatch, "/v1/system-procs/increment", `{"processor":"`+url+`"}`).is(200)
	w.done("increment")
	if got := strings.Count(w.bodies("incremented_numbers"), "\n") + 1; got != 3 {
		t.Errorf("%d results", got)
	}
	if len(section) > 0 {
		t.Errorf("README has more lines: %q", section)
	}
}

// startExample builds the Go example, runs it as a process and answers its URL.
func startExample(t *testing.T, env ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "increment")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../examples/increment").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(bin, "-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the example ended with: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the example says %q, %v", line, err)
	}
	return url
}

// readmeSection is the commands of a section: its indented blocks, each command with the lines that it goes on for.
func readmeSection(t *testing.T, file, title string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n"+title+"\n")
	if !found {
		t.Fatalf("%s has no section %q", file, title)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var commands []string
	command := ""
	for line := range strings.Lines(section) {
		line, code := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if !code || strings.HasPrefix(line, "#") {
			continue
		}
		command += line
		// Quotes are open, or the line ends with a backslash.
		if strings.Count(command, "'")%2 == 1 {
			command += "\n"
			continue
		}
		if strings.HasSuffix(command, "\\") {
			command = strings.TrimSuffix(command, "\\") + " "
			continue
		}
		commands = append(commands, command)
		command = ""
	}
	return commands
}

// document runs commands of a document. Its addresses are replaced by those of the test, and "…" by what the reader is
// to fill in.
type document struct {
	t           *testing.T
	replace     *strings.Replacer
	proc, token string
}

func (d *document) fill(proc, token string) { d.proc, d.token = proc, token }

// run runs the next command of a section, in which want stands, and answers what it prints.
func (d *document) run(section *[]string, want string) string {
	d.t.Helper()
	command := d.take(section, want)
	if !strings.HasPrefix(command, "curl ") {
		return ""
	}
	return d.do(command)
}

func (d *document) take(section *[]string, want string) string {
	d.t.Helper()
	if len(*section) == 0 || !strings.Contains((*section)[0], want) {
		d.t.Fatalf("the document does not go on with %q: %q", want, *section)
	}
	command := (*section)[0]
	*section = (*section)[1:]
	return command
}

// stream runs the next command of a section, one that does not end by itself.
func (d *document) stream(section *[]string, want string) *printedEvents {
	d.t.Helper()
	out := d.start(d.take(section, want))
	return &printedEvents{d.t, client.NewParser(ssetest.Watch(io.NopCloser(out), d.t.Errorf))}
}

// do runs one command to its end.
func (d *document) do(command string) string {
	d.t.Helper()
	out, err := io.ReadAll(d.start(command))
	if err != nil {
		d.t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}

// start runs a command until the end of the test at the latest, and answers what it prints.
func (d *document) start(command string) io.Reader {
	d.t.Helper()
	command = d.replace.Replace(command)
	command = strings.ReplaceAll(command, "liveproc-…", d.proc)
	command = strings.ReplaceAll(command, "…", d.token)
	if !curlKnowsJSON() {
		return d.imitate(command)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+strings.Replace(command, "curl ", "curl -sS ", 1))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // of a stream: killed
	})
	return out
}

// imitate sends what curl would send.
func (d *document) imitate(command string) io.Reader {
	d.t.Helper()
	method, url, body := http.MethodGet, "", ""
	for args := words(command)[1:]; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "--json":
			method, body, args = http.MethodPost, args[1], args[1:]
		case strings.HasPrefix(args[0], "http"):
			url = args[0]
		case args[0] != "-N":
			d.t.Fatalf("an option that is not known here: %q", args[0])
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		cancel()
		resp.Body.Close()
		transport.CloseIdleConnections()
	})
	return resp.Body
}

// words splits a command as a shell does, as far as documents need it: single quotes and comments.
func words(command string) (words []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|(#.*)|([^\s']+)`).FindAllStringSubmatch(command, -1) {
		if m[2] == "" {
			words = append(words, m[1]+m[3])
		}
	}
	return words
}

// curlKnowsJSON reports whether there is a curl that has --json (7.82).
func curlKnowsJSON() bool {
	out, err := exec.Command("curl", "--version").Output()
	var major, minor int
	if _, scan := fmt.Sscanf(string(out), "curl %d.%d", &major, &minor); err != nil || scan != nil {
		return false
	}
	return major > 7 || major == 7 && minor >= 82
}

// printedEvents are the events that a command prints.
type printedEvents struct {
	t      *testing.T
	events *client.Parser
}

// next is the data of the next event, which is to be of a type.
func (p *printedEvents) next(typ string) string {
	p.t.Helper()
	type result struct {
		event client.Event
		err   error
	}
	got := make(chan result, 1)
	go func() {
		e, err := p.events.Next()
		got <- result{e, err}
	}()
	select {
	case r := <-got:
		if r.err != nil && !errors.Is(r.err, io.EOF) || r.event.Type != typ {
			p.t.Fatalf("event %q %s, %v, want %q", r.event.Type, r.event.Data, r.err, typ)
		}
		return string(r.event.Data)
	case <-time.After(20 * time.Second):
		p.t.Fatalf("no event %q comes", typ)
		return ""
	}
}

// read reads JSON that a command has printed.
func read[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

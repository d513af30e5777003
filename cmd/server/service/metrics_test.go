package service

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/pgstore/pgtest"
)

// get answers the body of a GET with status 200.
func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s %v", url, res.Status, body, err)
	}
	return string(body)
}

// testConfig is a server on a database and a port of its own.
func testConfig(t *testing.T) Config {
	c := DefaultConfig()
	c.Listen = []string{"127.0.0.1:0"}
	c.DatabaseURL, c.UnsafeDurability, c.Logger = pgtest.Database(t), true, pgtest.Logger()
	return c
}

var labelName = regexp.MustCompile(`[{,]([a-z_]+)="`)

// TestMetricsAreDocumented holds that the document and /metrics tell the same metrics, with the same types and labels.
func TestMetricsAreDocumented(t *testing.T) {
	c := testConfig(t)
	c.GC = true
	s, _ := run(t, c)
	get(t, s.URLs()[0]+"/healthz")
	served := map[string]string{}
	labels := map[string]map[string]bool{}
	for line := range strings.Lines(get(t, s.URLs()[0]+"/metrics")) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "pipeproc_") {
			served[f[2]], labels[f[2]] = f[3], map[string]bool{}
			continue
		}
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "{")
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if of := labels[strings.TrimSuffix(name, suffix)]; of != nil {
				for _, m := range labelName.FindAllStringSubmatch(line, -1) {
					of[m[1]] = true
				}
				break
			}
		}
	}
	for name, kind := range served {
		var all []string
		for label := range labels[name] {
			if label != "le" {
				all = append(all, label)
			}
		}
		slices.Sort(all)
		served[name] = kind + " " + strings.Join(all, " ")
	}

	file, err := os.Open("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	told := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) < 5 || !strings.HasPrefix(cells[1], " `pipeproc_") {
			continue
		}
		all := strings.FieldsFunc(cells[3], func(c rune) bool { return c == '`' || c == ',' || c == ' ' })
		slices.Sort(all)
		told[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2]) + " " + strings.Join(all, " ")
	}
	if diff := cmp.Diff(told, served); diff != "" {
		t.Errorf("docs/metrics.md and /metrics (-told +served):\n%s", diff)
	}
}

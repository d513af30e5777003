package service

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// loaded is a reloader of one file, what it loaded, and its log.
func loaded(t *testing.T, file string) (r *reloader, texts *[]string, log *bytes.Buffer) {
	t.Helper()
	texts, log = new([]string), new(bytes.Buffer)
	r = &reloader{what: "x", files: []string{file, ""}, log: slog.New(slog.NewTextHandler(log, nil)), load: func(all [][]byte) error {
		if strings.HasPrefix(string(all[0]), "bad") {
			return errors.New("it is bad")
		}
		*texts = append(*texts, string(all[0]))
		return nil
	}}
	if err := r.first(); err != nil {
		t.Fatal(err)
	}
	return r, texts, log
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "one")
	r, texts, log := loaded(t, file)
	is := func(want ...string) {
		t.Helper()
		if !slices.Equal(*texts, want) {
			t.Errorf("loaded %q, want %q", *texts, want)
		}
	}
	r.look()
	is("one")
	write(t, file, "two")
	r.look()
	is("one") // it may be half written
	write(t, file, "two, whole")
	r.look()
	is("one")
	r.look()
	is("one", "two, whole")

	write(t, file, "bad")
	for range 5 {
		r.look()
	}
	is("one", "two, whole")
	if n := strings.Count(log.String(), "it is bad"); n != 1 {
		t.Errorf("it told %d times that the file is broken:\n%s", n, log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		r.look()
	}
	is("one", "two, whole")
	if n := strings.Count(log.String(), "cannot be read"); n != 1 {
		t.Errorf("it told %d times that the file is gone:\n%s", n, log)
	}
	write(t, file, "two, whole")
	r.look()
	r.look()
	is("one", "two, whole", "two, whole") // what was refused was not it
}

// Kubernetes changes files by turning a symbolic link to their folder over.
func TestReloadOfALinkThatIsTurnedOver(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "f"), name)
	}
	data, file := filepath.Join(dir, "..data"), filepath.Join(dir, "f")
	for _, err := range []error{os.Symlink("1", data), os.Symlink("..data/f", file)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, texts, _ := loaded(t, file)
	for _, err := range []error{os.Symlink("2", data+"_tmp"), os.Rename(data+"_tmp", data)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.look()
	r.look()
	if want := []string{"1", "2"}; !slices.Equal(*texts, want) {
		t.Errorf("loaded %q, want %q", *texts, want)
	}
}

func TestKeygen(t *testing.T) {
	var out bytes.Buffer
	if err := Keygen([]string{"--name", "ci", "--role", "write"}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || lines[2] != "" || !strings.HasPrefix(lines[0], "pipeproc_") || !strings.HasPrefix(lines[1], "ci write sha256:") {
		t.Errorf("it printed %q", out.String())
	}
	for _, args := range [][]string{{}, {"--name", "ci"}, {"--role", "read"}, {"--name", "a b", "--role", "read"},
		{"--name", "ci", "--role", "root"}, {"--name", "ci", "--role", "none"}, {"--name", "ci", "--role", "read", "more"}, {"--nope"}} {
		out.Reset()
		if err := Keygen(args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%q: %v, %q", args, err, out.String())
		}
	}
}

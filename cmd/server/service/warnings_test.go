package service

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWarnings holds which ways in are warned of at start, and that the usual ones are not.
func TestWarnings(t *testing.T) {
	const onTheWay, everyUser, nobody = "can be read on their way", "every user of this machine", "nobody is let in"
	server := newPair(t, "server", nil, time.Now().Add(time.Hour))
	var keygen bytes.Buffer
	if err := Keygen([]string{"--name", "ci", "--role", "read"}, &keygen); err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(keygen.String(), "\n")
	file := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, text)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys := func(mode fs.FileMode) func(*Config) {
		return func(c *Config) { c.APIKeysFile = file("keys", line, mode) }
	}
	listen := func(addresses ...string) func(*Config) { return func(c *Config) { c.Listen = addresses } }
	secure := func(mode fs.FileMode) func(*Config) {
		return func(c *Config) {
			c.TLSCert, c.TLSKey = file("cert", string(server.cert), 0o644), file("key", string(server.key), mode)
		}
	}
	for what, tt := range map[string]struct {
		with []func(*Config)
		want []string
	}{
		"nothing":                      {nil, nil},
		"keys on loopback":             {[]func(*Config){keys(0o644), listen("127.0.0.1:0", "[::1]:0", "unix:/s")}, nil},
		"keys on an open address":      {[]func(*Config){keys(0o600), listen("127.0.0.1:0", "0.0.0.0:0")}, []string{onTheWay}},
		"keys on two":                  {[]func(*Config){keys(0o600), listen("192.0.2.1:0", "[::]:0")}, []string{onTheWay, onTheWay}},
		"keys on an open one with TLS": {[]func(*Config){keys(0o600), secure(0o600), listen("0.0.0.0:0")}, nil},
		"no keys, insecure":            {[]func(*Config){listen("0.0.0.0:0"), func(c *Config) { c.Insecure = true }}, nil},
		"keys that all may change":     {[]func(*Config){keys(0o666)}, []string{everyUser}},
		"a TLS key that all may read":  {[]func(*Config){secure(0o644)}, []string{everyUser}},
		"a TLS key of a group":         {[]func(*Config){secure(0o640)}, nil},
		"authorities that all may change": {[]func(*Config){secure(0o600), func(c *Config) {
			c.TLSClientCA = file("ca", string(server.cert), 0o646)
		}}, []string{everyUser}},
		"a secret that all may read": {[]func(*Config){func(c *Config) {
			c.TicketSecretFile = file("secret", strings.Repeat("s", 32), 0o604)
		}}, []string{everyUser}},
		"no keys in the file": {[]func(*Config){func(c *Config) { c.APIKeysFile = file("keys", "# none yet\n", 0o600) }}, []string{nobody}},
	} {
		c := DefaultConfig()
		for _, with := range tt.with {
			with(&c)
		}
		var log bytes.Buffer
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		s, err := New(c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		s.warn()
		lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
		if log.Len() == 0 {
			lines = nil
		}
		same := len(lines) == len(tt.want)
		for i := 0; same && i < len(lines); i++ {
			same = strings.Contains(lines[i], tt.want[i])
		}
		if !same {
			t.Errorf("%s: it warns %q, want %q", what, lines, tt.want)
		}
	}
}

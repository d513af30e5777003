package service

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"pipeproc/httpapi"
)

// Keygen makes an API key, as the flags --name and --role tell: it writes two lines to out, the key and the line to append
// to the file of --api-keys-file. flag.ErrHelp where --help is among args.
func Keygen(args []string, out io.Writer) error {
	set := flag.NewFlagSet("keygen", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	name := set.String("name", "", "")
	roleName := set.String("role", "", "")
	if err := set.Parse(args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	role, err := httpapi.ParseRole(*roleName)
	if err != nil {
		return fmt.Errorf("--role: %w", err)
	}
	key, line, err := httpapi.NewKey(*name, role)
	if err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s\n%s\n", key, line)
	return err
}

// KeygenHelp is the text of keygen --help.
const KeygenHelp = `server keygen --name NAME --role ROLE: make an API key.

It prints two lines: the key, which is shown this once, and the line to append to the file of --api-keys-file, which holds
but a SHA-256 of it. ROLE is read, write or admin; NAME is told in the log.
`

// apiKeys reads the file of API keys, and answers what reads it again when it changes; nil when there is none.
func apiKeys(c *Config, log *slog.Logger) (*httpapi.Keys, *reloader, error) {
	if c.APIKeysFile == "" {
		return nil, nil, nil
	}
	keys := httpapi.NewKeys()
	file := &reloader{what: "API keys", files: []string{c.APIKeysFile}, log: log, load: func(texts [][]byte) error {
		added, removed, err := keys.Load(texts[0])
		for _, name := range removed {
			log.Info("audit", "action", "remove key", "target", name)
		}
		for _, name := range added {
			log.Info("audit", "action", "add key", "target", name)
		}
		if err == nil && keys.Len() == 0 {
			log.Warn("the file of API keys holds none: nobody is let in", "file", c.APIKeysFile)
		}
		return err
	}}
	if err := file.first(); err != nil {
		return nil, nil, fmt.Errorf("--api-keys-file: %w", err)
	}
	return keys, file, nil
}

// ticketSecret reads the file of --ticket-secret-file and makes a key of it; nil when there is none.
func ticketSecret(c *Config) ([]byte, error) {
	if c.TicketSecretFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.TicketSecretFile)
	if err != nil {
		return nil, fmt.Errorf("--ticket-secret-file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if len(secret) < 32 {
		return nil, errors.New("--ticket-secret-file: a secret has 32 characters at least; openssl rand -hex 32 makes one")
	}
	sum := sha256.Sum256([]byte(secret))
	return sum[:], nil
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// freeAddress is a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := listen()
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// takeProfile takes a CPU profile of the server during the second phase of load, which is the first that counts, and the
// heap's after it. The answer comes when both are written.
func (x *subject) takeProfile(ctx context.Context, d time.Duration) <-chan error {
	done := make(chan error, 1)
	if x.profile == "" || x.phases != 2 {
		done <- nil
		return done
	}
	go func() {
		name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(x.name), "-"), "-")
		err := x.fetchProfile(ctx, fmt.Sprintf("profile?seconds=%d", max(1, int(d.Seconds()))), name+".cpu.pprof")
		if err == nil {
			err = x.fetchProfile(ctx, "heap", name+".heap.pprof")
		}
		done <- err
	}()
	return done
}

func (x *subject) fetchProfile(ctx context.Context, what, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+x.profile+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("profile %s: %s: %s", what, answer.Status, data)
	}
	if err := os.MkdirAll(x.lab.profiles, 0o750); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(x.lab.profiles, file), data, 0o600)
}

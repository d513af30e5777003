package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// writeMarkdown writes the table with all that one needs to measure it again.
func (l *lab) writeMarkdown(ctx context.Context, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(f, "# Results of a reference run\n\nMedians of %d rounds; a ratio is the median of the rounds' ratios.\n\n", l.rounds)
	for _, line := range l.machine(ctx) {
		fmt.Fprintf(f, "- %s\n", line)
	}
	fmt.Fprintln(f)
	l.results.markdown(f)
	return f.Close()
}

// machine tells where the figures are from.
func (l *lab) machine(ctx context.Context) []string {
	lines := []string{
		"date: " + time.Now().UTC().Format(time.DateOnly),
		"command: `go run ./bench " + strings.Join(os.Args[1:], " ") + "`",
		fmt.Sprintf("machine: %d cores, %s, %s", runtime.NumCPU(), cpuModel(), firstLine(ctx, "uname", "-sr")),
		runtime.Version(),
	}
	if postgres, err := l.program("postgres"); err == nil {
		lines = append(lines, firstLine(ctx, postgres, "--version"))
	}
	for _, name := range []string{"redis-server", "webdis"} {
		if version := firstLine(ctx, "dpkg-query", "-W", "-f", "${Package} ${Version}", name); version != "" {
			lines = append(lines, version)
		}
	}
	return lines
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// firstLine is what a program tells of itself; "" where it is not there.
func firstLine(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

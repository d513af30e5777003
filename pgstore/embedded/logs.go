package embedded

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
)

const tailLines = 12

// tail keeps the last lines of a process's output for an error text.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "(no output)"
	}
	return strings.Join(t.lines, "; ")
}

// forward reads a process's output until its end and hands each line to the tail and to the logger. It never stops
// reading early, so that the process cannot block on a full pipe.
func forward(r io.Reader, log *slog.Logger, t *tail) {
	level := slog.LevelInfo
	in := bufio.NewReaderSize(r, 16<<10)
	for {
		// An overlong line comes in pieces.
		b, _, err := in.ReadLine()
		if err != nil {
			return
		}
		line := strings.TrimSpace(string(b))
		if line == "" {
			continue
		}
		t.add(line)
		word, rest, found := strings.Cut(line, ":")
		if l, known := severity(word); found && known {
			level, line = l, strings.TrimSpace(rest)
		}
		log.Log(context.Background(), level, line, "from", "postgresql")
	}
}

// severity maps PostgreSQL's words. DETAIL, HINT, STATEMENT and further lines keep the level of the line they belong
// to. ERROR ends a statement and FATAL a connection: their client knows, PostgreSQL itself is well. (When it is not, its
// supervisor says so.)
func severity(word string) (slog.Level, bool) {
	switch word {
	case "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3", "DEBUG4", "DEBUG5":
		return slog.LevelDebug, true
	case "LOG", "INFO", "NOTICE":
		return slog.LevelInfo, true
	case "WARNING", "ERROR", "FATAL":
		return slog.LevelWarn, true
	case "PANIC":
		return slog.LevelError, true
	default:
		return 0, false
	}
}

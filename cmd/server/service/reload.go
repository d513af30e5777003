package service

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"

	"pipeproc/api"
)

// reloadInterval is the time between two looks at the files. What is in them is looked at, not when they were changed: so a
// change is seen however it came about, as by the symbolic links that Kubernetes turns over.
const reloadInterval = 500 * time.Millisecond

// reloadPatience is what a look may take: of files that are far away, for once. A key that was removed lets in meanwhile.
const reloadPatience = 30 * time.Second

// A reloader loads files again when what is in them changes.
type reloader struct {
	what  string   // for the log
	files []string // of which some may be ""
	load  func(texts [][]byte) error

	log   *slog.Logger
	turns api.Turns

	now  [][]byte // what was loaded last, or refused
	seen [][]byte // at the last look
	lost bool     // the last look failed
}

// first loads the files for the first time.
func (r *reloader) first() error {
	texts, err := r.read()
	if err != nil {
		return err
	}
	r.now, r.seen = texts, texts
	return r.load(texts)
}

func (r *reloader) read() ([][]byte, error) {
	texts := make([][]byte, len(r.files))
	for i, file := range r.files {
		if file == "" {
			continue
		}
		var err error
		if texts[i], err = os.ReadFile(file); err != nil { //nolint:gosec // the operator names the file
			return nil, err
		}
	}
	return texts, nil
}

// Run looks at the files until ctx is done.
func (r *reloader) Run(ctx context.Context) error {
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	r.turns.Start()
	defer r.turns.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.turns.Begin()
			r.look()
			r.turns.End()
		}
	}
}

// look loads files that have changed, and stayed as they are for two looks: one that is being written is not there yet, and
// a certificate may come before its key. What cannot be loaded, or read, is told of once, and what was loaded before stays.
func (r *reloader) look() {
	texts, err := r.read()
	if err != nil {
		if !r.lost {
			r.log.Error("a file cannot be read; what was read before stays in use", "what", r.what, "error", err)
		}
		r.lost = true
		return
	}
	r.lost = false
	settled := same(texts, r.seen)
	r.seen = texts
	if !settled || same(texts, r.now) {
		return
	}
	r.now = texts
	if err := r.load(texts); err != nil {
		r.log.Error("changed files are not used; what was read before stays in use", "what", r.what, "error", err)
		return
	}
	r.log.Info("changed files are in use", "what", r.what)
}

func same(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// runs are the loops of reloaders, with their turns.
func runs(all []*reloader) (loops []func(context.Context) error, turns []*api.Turns) {
	for _, r := range all {
		r.turns.Name, r.turns.Every, r.turns.Patience = r.what, reloadInterval, reloadPatience
		loops, turns = append(loops, r.Run), append(turns, &r.turns)
	}
	return loops, turns
}

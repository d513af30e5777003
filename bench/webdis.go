package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// webdis is an HTTP front on a Redis that flushes before it answers: the same promise as a commit's.
type webdis struct {
	address string
	stops   []func() error // in order
}

// startWebdis starts a redis-server and a webdis, both with nothing of what Debian would run as services. The error is
// exec.ErrNotFound where they are not installed.
func startWebdis(ctx context.Context, dir string) (_ *webdis, err error) {
	programs := map[string]string{"redis-server": "", "webdis": ""}
	for name := range programs {
		if programs[name], err = exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, exec.ErrNotFound)
		}
	}
	if dir, err = os.MkdirTemp(dir, "redis-*"); err != nil {
		return nil, err
	}
	d := &webdis{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	socket := filepath.Join(dir, "redis.sock")
	if err = d.start(programs["redis-server"], "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--logfile", filepath.Join(dir, "redis.log")); err != nil {
		return nil, err
	}
	if err = until(ctx, func() error { _, err := os.Stat(socket); return err }); err != nil {
		return nil, err
	}
	if d.address, err = freeAddress(); err != nil {
		return nil, err
	}
	host, err := url.Parse("http://" + d.address)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{"redis_host": socket, "redis_port": 0, "http_host": host.Hostname(),
		"http_port": json.Number(host.Port()), "threads": 2, "database": 0, "daemonize": false, "verbosity": 0,
		"logfile": filepath.Join(dir, "webdis.log")})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "webdis.json")
	if err = os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	if err = d.start(programs["webdis"], file); err != nil {
		return nil, err
	}
	err = until(ctx, func() error {
		w, err := dialWire(ctx, d.address)
		if err != nil {
			return err
		}
		defer w.close()
		_, err = w.do(get("/PING"), 200)
		return err
	})
	return d, err
}

// start runs a program until stop.
func (d *webdis) start(program string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for us to hand on
	if err := cmd.Start(); err != nil {
		return err
	}
	d.stops = append([]func() error{func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait() // a signal ends it, which is what was wanted
		return nil
	}}, d.stops...)
	return nil
}

func (d *webdis) stop() (err error) {
	for _, stop := range d.stops {
		err = errors.Join(err, stop())
	}
	return err
}

// until tries again and again, for a while.
func until(ctx context.Context, try func() error) error {
	for end := time.Now().Add(10 * time.Second); ; {
		err := try()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// besideWebdis commits the same logs to a Redis stream, in webdis' quickest form, and to a topic.
func besideWebdis(ctx context.Context, x *subject) (err error) {
	d, err := startWebdis(ctx, x.lab.dir)
	if errors.Is(err, exec.ErrNotFound) {
		x.lab.results.skip(x.name, err.Error(), "≥ 0.95 ×")
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	add := get("/XADD/bench/*/body/" + url.PathEscape(string(body)))
	xadd := limit{"webdis XADD", func(ctx context.Context) (figures, error) {
		return closedLoop(ctx, d.address, x.lab.long(), each(64, func(int) worker { return adds(add) }))
	}}
	s, err := x.against(ctx, xadd, func(ctx context.Context) (figures, error) {
		return x.closed(ctx, x.lab.long(), committers(64))
	})
	if err != nil {
		return err
	}
	x.add(x.name, "commits/s", s, ratioBar(s, 0.95))
	return nil
}

// adds is a worker that adds to a Redis stream: webdis answers 200 also where Redis refuses.
func adds(request []byte) worker {
	return func(w *wire) error {
		answer, err := w.do(request, 200)
		if err == nil && !bytes.HasPrefix(answer, []byte(`{"XADD":"`)) {
			err = fmt.Errorf("webdis: %.200s", answer)
		}
		return err
	}
}

//go:build linux

package chaos

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// relay hands connections on to its targets, in turn: each to the next one that takes it.
type relay struct {
	listener net.Listener
	all      sync.WaitGroup

	mu      sync.Mutex
	targets []string // none: connections are refused
	turn    int
	pairs   map[*pair]struct{}
}

// pair is a client's connection and the target's.
type pair struct {
	client, server *net.TCPConn
	target         string
}

func newRelay(address string, targets ...string) (*relay, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	r := &relay{listener: ln, targets: targets, pairs: map[*pair]struct{}{}}
	r.all.Go(r.accept)
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }
func (r *relay) url() string     { return "http://" + r.address() }

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			r.all.Go(func() { r.serve(client.(*net.TCPConn)) })
		}
	}
}

// next are the targets, the one whose turn it is first.
func (r *relay) next() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.targets) == 0 {
		return nil
	}
	r.turn = (r.turn + 1) % len(r.targets)
	return slices.Concat(r.targets[r.turn:], r.targets[:r.turn])
}

func (r *relay) serve(client *net.TCPConn) {
	defer client.Close()
	for _, target := range r.next() {
		server, err := net.DialTimeout("tcp", target, time.Second)
		if err != nil {
			continue
		}
		p := &pair{client, server.(*net.TCPConn), target}
		r.mu.Lock()
		r.pairs[p] = struct{}{}
		gone := !slices.Contains(r.targets, target) // while it was dialed
		r.mu.Unlock()
		if gone {
			p.reset()
		}
		r.all.Go(func() { p.pump(p.server, p.client) })
		p.pump(p.client, p.server)
		r.mu.Lock()
		delete(r.pairs, p)
		r.mu.Unlock()
		return
	}
}

func (p *pair) pump(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

// reset closes both connections by a reset, in the middle of whatever they are at.
func (p *pair) reset() {
	_ = p.client.SetLinger(0)
	_ = p.server.SetLinger(0)
	p.client.Close()
	p.server.Close()
}

// cut resets the connections to a target.
func (r *relay) cut(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		if p.target == target {
			p.reset()
		}
	}
}

// turnTo hands new connections on to other targets, and resets those to the present ones.
func (r *relay) turnTo(targets ...string) {
	r.mu.Lock()
	before := r.targets
	r.targets, r.turn = targets, 0
	r.mu.Unlock()
	for _, target := range before {
		r.cut(target)
	}
}

func (r *relay) close() {
	r.listener.Close()
	r.turnTo()
	r.all.Wait()
}

package pgstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// commitFault is what befalls the next COMMIT of a lane.
type commitFault int

const (
	noFault      commitFault = iota
	answerLost               // PostgreSQL commits; the connection is cut before its answer is through
	answerHeld               // PostgreSQL commits; its answer never comes, the connection stays
	commitLost               // the connection is cut before the COMMIT is through
	commitHeld               // the COMMIT never gets through, the connection stays
	answerLate               // PostgreSQL commits and answers, with a warning
	unresolvable             // as answerLost, and no further connection is let in until heal
)

// proxy stands between a store and PostgreSQL and can do what networks do.
type proxy struct {
	tb       testing.TB
	target   *pgconn.Config
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	fault  commitFault
	spared int
	struck chan struct{}                 // closed when the fault has happened
	refuse func(application string) bool // nil: nobody is refused
	holds  []*held
	pids   []int32       // of PostgreSQL's processes behind it
	ended  chan struct{} // closed with the proxy
}

// newProxy answers a proxy to the database at url, and the URL that leads through it.
func newProxy(tb testing.TB, url string) (*proxy, string) {
	tb.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{tb: tb, target: &config.Config, listener: l, conns: map[net.Conn]struct{}{}, ended: make(chan struct{})}
	p.done.Go(p.accept)
	tb.Cleanup(p.close)
	text := fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", l.Addr().(*net.TCPAddr).Port, config.User, config.Database)
	if config.Password != "" {
		text += " password=" + config.Password
	}
	return p, text
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	close(p.ended)
	p.cut()
	p.done.Wait()
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// strike lets fault befall a COMMIT of a lane, after some that it spares; the channel is closed when it has.
func (p *proxy) strike(fault commitFault, spared int) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.spared, p.struck = fault, spared, make(chan struct{})
	return p.struck
}

// take answers the fault that is due, if it is one of those given.
func (p *proxy) take(faults ...commitFault) commitFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range faults {
		if p.fault == f {
			if p.spared > 0 {
				p.spared--
				return noFault
			}
			p.fault = noFault
			if f == unresolvable {
				p.refuse = func(string) bool { return true }
			}
			close(p.struck)
			return f
		}
	}
	return noFault
}

// held is a statement that is kept from PostgreSQL for a while. What stands before it in its batch is carried out.
type held struct {
	fragment string
	reached  chan struct{} // closed when it is there
	goOn     chan struct{}
	once     sync.Once
}

// hold keeps the next statement that contains fragment from PostgreSQL until release; ^ and $ stand for its two ends.
func (p *proxy) hold(fragment string) *held {
	h := &held{fragment: fragment, reached: make(chan struct{}), goOn: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = append(p.holds, h)
	return h
}

// backends are the processes of PostgreSQL that it has led to.
func (p *proxy) backends() []int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]int32{}, p.pids...)
}

func (h *held) release() { h.once.Do(func() { close(h.goOn) }) }

// taken answers who holds a statement; nil: nobody.
func (p *proxy) taken(text string) *held {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, h := range p.holds {
		if strings.Contains("^"+text+"$", h.fragment) {
			p.holds = append(p.holds[:i:i], p.holds[i+1:]...)
			return h
		}
	}
	return nil
}

// refuseThose closes new connections of applications that refuse chooses; nil: of none.
func (p *proxy) refuseThose(refuse func(application string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

func (p *proxy) heal() { p.refuseThose(nil) }

// add registers a connection, unless the proxy is closed.
func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(client net.Conn) {
	if !p.add(client) {
		return
	}
	defer p.drop(client)
	startup, err := readMessage(client, false)
	if err != nil {
		return
	}
	application := ""
	if words := strings.Split(string(startup[8:]), "\x00"); len(startup) > 16 {
		for i := 0; i+1 < len(words); i += 2 {
			if words[i] == "application_name" {
				application = words[i+1]
			}
		}
	}
	p.mu.Lock()
	refused := p.refuse != nil && p.refuse(application)
	p.mu.Unlock()
	if refused {
		return
	}
	network, address := pgconn.NetworkAddress(p.target.Host, p.target.Port)
	server, err := net.Dial(network, address)
	if err != nil || !p.add(server) {
		return
	}
	defer p.drop(server)
	if _, err := server.Write(startup); err != nil {
		return
	}
	l := &link{proxy: p, client: client, server: server, lane: strings.Contains(application, " lane "), statements: map[string]string{},
		progress: make(chan struct{}, 1), gone: make(chan struct{})}
	var both sync.WaitGroup
	both.Go(func() { l.run(l.forward) })
	both.Go(func() {
		defer close(l.gone)
		l.run(l.backward)
	})
	both.Wait()
}

// link is one connection through the proxy.
type link struct {
	proxy          *proxy
	client, server net.Conn
	lane           bool
	statements     map[string]string // prepared ones: name → text; of forward alone
	due            atomic.Int64      // statements that PostgreSQL has not carried out
	progress       chan struct{}     // it has sent something; capacity 1
	gone           chan struct{}     // closed when it sends no more
	// Of backward alone.
	held    bool
	ready   bool   // the connection is made
	pending []byte // of an answer that PostgreSQL has not finished: it sends all at once, or nothing
}

var errCut = errors.New("cut")

// run relays in one direction; where it ends, the other one does.
func (l *link) run(relay func() error) {
	for relay() == nil {
	}
	l.client.Close()
	l.server.Close()
}

// forward relays a message to PostgreSQL.
func (l *link) forward() error {
	m, err := readMessage(l.client, true)
	if err != nil {
		return err
	}
	text := l.carriedOut(m)
	if l.lane && text == "COMMIT" {
		switch l.proxy.take(commitLost, commitHeld) {
		case commitLost:
			return errCut
		case commitHeld:
			_, err := io.Copy(io.Discard, l.client) // until the store gives up
			return err
		}
	}
	if h := l.proxy.taken(text); text != "" && h != nil {
		if err := l.keep(h); err != nil {
			return err
		}
	}
	if m[0] == 'E' {
		l.due.Add(1)
	}
	_, err = l.server.Write(m)
	return err
}

// keep keeps a statement until it is released. It is said to be there when all before it was carried out.
func (l *link) keep(h *held) error {
	if _, err := l.server.Write([]byte{'H', 0, 0, 0, 4}); err != nil { // PostgreSQL is to tell how far it is
		return err
	}
	for l.due.Load() > 0 {
		select {
		case <-l.progress:
		case <-l.proxy.ended:
			return errCut
		case <-l.gone:
			return errCut
		}
	}
	close(h.reached)
	select {
	case <-h.goOn:
	case <-l.proxy.ended:
	}
	return nil
}

// carriedOut is the statement that a message has PostgreSQL carry out; "" for all others.
func (l *link) carriedOut(m []byte) string {
	body := m[5:]
	switch m[0] {
	case 'P':
		name, rest, _ := bytes.Cut(body, []byte{0})
		text, _, _ := bytes.Cut(rest, []byte{0})
		l.statements[string(name)] = string(text)
	case 'B':
		_, rest, _ := bytes.Cut(body, []byte{0})
		name, _, _ := bytes.Cut(rest, []byte{0})
		return l.statements[string(name)]
	case 'Q':
		text, _, _ := bytes.Cut(body, []byte{0})
		return string(text)
	}
	return ""
}

// backward relays a message to the store.
func (l *link) backward() error {
	m, err := readMessage(l.server, true)
	if err != nil {
		return err
	}
	switch m[0] {
	case 'C', 'I': // a statement was carried out
		l.due.Add(-1)
	case 'E', 'Z': // or all of them were given up; and simple ones are not counted
		l.due.Store(0)
	}
	select {
	case l.progress <- struct{}{}:
	default:
	}
	if m[0] == 'K' { // whom it talks to
		l.proxy.mu.Lock()
		l.proxy.pids = append(l.proxy.pids, int32(binary.BigEndian.Uint32(m[5:])))
		l.proxy.mu.Unlock()
	}
	if l.lane && m[0] == 'C' && bytes.HasPrefix(m[5:], []byte("COMMIT\x00")) {
		switch l.proxy.take(answerLost, answerHeld, answerLate, unresolvable) {
		case answerLost, unresolvable:
			return errCut
		case answerHeld:
			l.held = true
		case answerLate:
			m = append(warning(), m...)
		}
	}
	if l.held {
		return nil
	}
	l.pending = append(l.pending, m...)
	if last := m[0] == 'Z'; !last && l.ready && l.lane {
		return nil
	} else if last {
		l.ready = true
	}
	_, err = l.client.Write(l.pending)
	l.pending = nil
	return err
}

// warning is the notice of a wait for synchronous replication that was cancelled.
func warning() []byte {
	body := "SWARNING\x00VWARNING\x00C01000\x00Mcanceling wait for synchronous replication due to user request\x00\x00"
	return append(binary.BigEndian.AppendUint32([]byte{'N'}, uint32(len(body)+4)), body...)
}

// readMessage reads one message of PostgreSQL's protocol; the first of a connection has no type.
func readMessage(r io.Reader, typed bool) ([]byte, error) {
	n := 4
	if typed {
		n = 5
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[n-4:])) - 4
	if size < 0 || size > 1<<28 {
		return nil, errors.New("not a message")
	}
	m := append(head, make([]byte, size)...)
	_, err := io.ReadFull(r, m[n:])
	return m, err
}

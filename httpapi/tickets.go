package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"sync"
	"time"

	"pipeproc/api"
)

const (
	// ticketLife is how long a ticket may wait for its first stream, and from the end of one stream for the next.
	ticketLife = time.Minute
	// ticketPatience is how long a stream waits for the end of the one before it: a client that comes back may be here
	// before it is known that it was gone.
	ticketPatience = 5 * time.Second
	// ticketSkew is how far the clocks of servers that share a secret may be apart.
	ticketSkew = 10 * time.Second
)

// tickets let streams in, instead of a key, where only a URL can be given. A ticket is signed, so every server that has the
// secret knows it, without having heard of it. Which streams a ticket has opened, and when they ended, each server knows of
// its own alone.
type tickets struct {
	secret []byte

	mu      sync.Mutex
	used    map[ticketID]*ticketUse
	cleaned time.Time // when used was gone through
}

// ticketID is what makes a ticket one of its own.
type ticketID [16]byte

// ticketUse is what became of a ticket, kept until the ticket is good for nothing.
type ticketUse struct {
	open  chan struct{} // closed when the stream ends; nil: none is open
	ended time.Time     // the last one
}

func newTickets(secret []byte) *tickets {
	if secret == nil {
		secret = make([]byte, 32)
		rand.Read(secret)
	}
	return &tickets{secret: secret, used: map[ticketID]*ticketUse{}}
}

// A ticket's bytes: when it was made, in Unix ms; its id; its key's; and the signature of these and the path.
const (
	ticketHead = 8 + len(ticketID{}) + len(keyID{})
	ticketSize = ticketHead + sha256.Size
)

// issue makes a ticket for path; k may be nil.
func (t *tickets) issue(path string, k *key, now time.Time) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, ticketSize), uint64(now.UnixMilli()))
	var id ticketID
	rand.Read(id[:])
	b = append(b, id[:]...)
	var holder keyID // zero: nobody needs a key
	if k != nil {
		holder = k.id()
	}
	b = append(b, holder[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, t.sign(b, path)...))
}

func (t *tickets) sign(head []byte, path string) []byte {
	h := hmac.New(sha256.New, t.secret)
	h.Write([]byte("pipeproc stream ticket\n"))
	h.Write(head)
	h.Write([]byte(path))
	return h.Sum(nil)
}

// open begins a stream with a ticket: done is to be called when it has ended. k is the key that the ticket was made with,
// nil where there are no keys. CodeUnauthorized: the ticket is not good for this.
func (t *tickets) open(r *http.Request, ticket string, keys *Keys) (done func(), k *key, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(ticket)
	if err != nil || len(b) != ticketSize || len(ticket) != base64.RawURLEncoding.EncodedLen(ticketSize) || // line breaks are skipped
		!hmac.Equal(b[ticketHead:], t.sign(b[:ticketHead], r.URL.Path)) {
		return nil, nil, api.Errorf(api.CodeUnauthorized, "the ticket is not one of this server's for this path")
	}
	if r.Method != http.MethodGet || streamForm(r) != asEvents {
		return nil, nil, api.Errorf(api.CodeUnauthorized, "a ticket opens streams of events alone")
	}
	id, holder := ticketID(b[8:]), keyID(b[8+len(ticketID{}):])
	if (holder == keyID{}) != (keys == nil) {
		return nil, nil, errTicketKeyGone
	}
	if keys != nil {
		if k = keys.named(holder); k == nil {
			return nil, nil, errTicketKeyGone
		}
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(b))) //nolint:gosec // signed, and so as issue wrote it
	done, err = t.begin(r.Context(), id, made)
	return done, k, err
}

var errTicketKeyGone = api.Errorf(api.CodeUnauthorized, "the key that the ticket was made with is gone")

var errTicketTooOld = api.Errorf(api.CodeUnauthorized,
	"the ticket was not used, or its stream ended, more than %s ago; ask for another one", ticketLife)

// begin counts a stream in, of a ticket of which id and the time of its making are known.
func (t *tickets) begin(ctx context.Context, id ticketID, made time.Time) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, ticketPatience)
	defer cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(time.Now())
	for {
		use := t.used[id]
		switch {
		case use == nil:
			if age := time.Since(made); age > ticketLife || age < -ticketSkew {
				return nil, errTicketTooOld
			}
			use = new(ticketUse)
			t.used[id] = use
			return t.opened(use), nil
		case use.open == nil && time.Since(use.ended) > ticketLife:
			return nil, errTicketTooOld
		case use.open == nil:
			return t.opened(use), nil
		}
		open := use.open
		t.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
		}
		t.mu.Lock()
		if ctx.Err() != nil {
			return nil, api.Errorf(api.CodeUnauthorized, "a stream is open with this ticket, which opens one at a time")
		}
	}
}

// opened marks a stream as open. t.mu is held.
func (t *tickets) opened(use *ticketUse) (done func()) {
	open := make(chan struct{})
	use.open = open
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		use.open, use.ended = nil, time.Now()
		close(open)
	}
}

// forget forgets the tickets that are good for nothing, once a while. One is remembered for as long as it could be taken
// for a new one: until it is too old for that, by the clock of whoever made it. t.mu is held.
func (t *tickets) forget(now time.Time) {
	if now.Sub(t.cleaned) < ticketLife {
		return
	}
	t.cleaned = now
	for id, use := range t.used {
		if use.open == nil && now.Sub(use.ended) > ticketLife+ticketSkew {
			delete(t.used, id)
		}
	}
}

// createTicket handles POST /v1/stream-tickets.
func (s *Server) createTicket(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Path string `json:"path"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	role, err := s.streamRole(req.Path)
	if err != nil {
		return err
	}
	k := holderOf(r)
	if k != nil && k.role < role {
		return forbidden(k, role)
	}
	now := time.Now()
	return respond(w, http.StatusCreated, struct {
		Ticket    string `json:"ticket"`
		Path      string `json:"path"`
		ExpiresAt int64  `json:"expiresAt"`
	}{s.tickets.issue(req.Path, k, now), req.Path, now.Add(ticketLife).UnixMilli()})
}

// streamRole is the role that the stream at path takes.
func (s *Server) streamRole(path string) (Role, error) {
	for pattern, role := range s.streamRoles {
		if matchesPattern(pattern, path) {
			return role, nil
		}
	}
	return RoleNone, api.Errorf(api.CodeInvalidRequest,
		"path is that of a stream, without the query: /v1/tail, /v1/topics/{topic}/logs, /v1/topics/{topic}/live or /v1/live-procs/{name}/changes")
}

// matchesPattern reports whether path is one of the pattern's, with good names.
func matchesPattern(pattern, path string) bool {
	wanted, given := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(wanted) != len(given) {
		return false
	}
	for i, part := range wanted {
		name, named := strings.CutPrefix(part, "{")
		switch {
		case named && checkName(strings.TrimSuffix(name, "}"), given[i]) != nil, !named && part != given[i]:
			return false
		}
	}
	return true
}

// streamForm is what a stream's route answers r with: events, unless that is a matter of the Accept header.
func streamForm(r *http.Request) string {
	if strings.HasSuffix(r.Pattern, "/logs") {
		return accepted(r)
	}
	return asEvents
}

package httpapi

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"pipeproc/api"
)

// What a range as lines takes at a time, in bytes of bodies. The first page is small, so that it is there soon; pages grow
// while the client takes them quickly, so that those who read slowly hold little memory.
const (
	firstPage = 64 << 10
	mostPage  = 1 << 20
	quickly   = 250 * time.Millisecond
)

// The client's part: each piece is to be taken in time.
const (
	pieceSize    = 64 << 10
	pieceTimeout = 10 * time.Second
)

// maxResolved is how often a range is resolved anew because GC took its first logs before they were read.
const maxResolved = 5

// sendLines answers a range of any size, one log a line. What is in it is fixed at the start. Nothing is held in the store
// while the client takes its time. When the range cannot go on, the connection is cut: what is there never looks whole.
func (s *Server) sendLines(w http.ResponseWriter, r *http.Request, query url.Values) error {
	q, err := rangeQuery(query, 0, math.MaxInt)
	if err != nil {
		return err
	}
	done, err := s.Streams.Admit(r)
	if err != nil {
		return err
	}
	defer done()
	head := r.Method == http.MethodHead
	x := &lines{logs: s.Logs, size: firstPage, read: firstPage / minLine, bytes: firstPage, room: &s.lines}
	defer x.close()
	if err := x.begin(r.Context(), r.PathValue("topic"), q, head); err != nil {
		return err
	}
	if err := x.hold(cap(x.page)); err != nil {
		return err
	}
	w.Header().Set("Content-Type", asLines)
	w.WriteHeader(http.StatusOK)
	if head {
		return nil
	}
	out := newPieces(r.Context(), w)
	defer out.finish()
	var writing sync.WaitGroup // of a page, while the next one is read
	defer writing.Wait()
	for {
		page, begun := x.page, time.Now()
		var took time.Duration
		var gone error
		writing.Go(func() {
			gone = out.write(page)
			took = time.Since(begun)
		})
		more := x.run.Len() > 0
		if more {
			if err = x.next(r.Context()); err == nil {
				err = x.hold(max(cap(page), cap(x.page)))
			}
		}
		writing.Wait()
		switch {
		case gone != nil && r.Context().Err() == nil: // it does not read
			return gone
		case gone != nil, err != nil:
			return s.breakOff(w, r, err)
		case !more:
			return nil
		}
		x.resize(took, page)
	}
}

// lines reads a run page by page.
type lines struct {
	logs  api.Logs
	run   api.Run // what is left
	size  int     // of the next page
	page  []byte
	spare []byte // a buffer

	read, bytes int // logs and bytes of bodies in the page, of which the next one's size in logs is told

	room *room // shared by all ranges as lines
	held int64 // what this one has of it
}

// linesRoom is what the pages of all ranges as lines may take beyond ownLines, which each has for itself: pages grow for who
// reads quickly, and large logs make large pages, however slowly they are read.
const (
	linesRoom = 256 << 20
	ownLines  = 4 * firstPage
)

// hold takes of the room what two pages of n bytes take, and gives back what is more. CodeOverloaded where there is not as much.
func (x *lines) hold(n int) error {
	more := max(0, 2*int64(n)-ownLines) - x.held
	if more > 0 && !x.room.take(more) {
		return noRoom("the ranges that are being read take all the memory that there is for them")
	}
	if more < 0 {
		x.room.give(-more)
	}
	x.held += more
	return nil
}

// close gives back what is held.
func (x *lines) close() { x.room.give(x.held) }

// minLine is what a log is taken for at least, so that many small ones do not make a large page.
const minLine = 64

// begin resolves the range and reads the first page, unless it is the answer to a HEAD.
func (x *lines) begin(ctx context.Context, topic string, q api.RangeQuery, head bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for range maxResolved {
		if x.run, err = x.logs.Resolve(ctx, topic, q); err != nil || head || x.run.Len() == 0 {
			break
		}
		if err = x.next(ctx); api.CodeOf(err) != api.CodeCollected {
			break
		}
	}
	return err
}

// next reads the next page, into the spare buffer.
func (x *lines) next(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	page := x.spare[:0]
	read, bytes, last := 0, 0, int64(0)
	about := 1 + int64(x.size)*int64(x.read)/int64(x.bytes)
	err := x.logs.ReadRun(ctx, x.run.First(about), x.size, func(id api.ID, body []byte) {
		page = append(page, `{"id":"`...)
		page = id.Append(page)
		page = append(page, `","body":`...)
		page = append(page, body...)
		page = append(page, "}\n"...)
		read++
		bytes += max(len(body), minLine)
		last = id.Seq
	})
	if err != nil {
		return err
	}
	x.run = x.run.After(last)
	x.page, x.spare, x.read, x.bytes = page, nil, read, bytes
	return nil
}

// resize makes the next page as large as the time tells that the client took for the last one. written is its buffer.
func (x *lines) resize(took time.Duration, written []byte) {
	if took > quickly {
		x.size = firstPage
		_ = x.hold(cap(x.page)) // less than before
		return
	}
	if larger := min(2*x.size, mostPage); x.hold(max(2*larger, cap(written), cap(x.page))) == nil { // appending makes buffers larger
		x.size = larger
	}
	x.spare = written
}

// pieces writes to a client piece by piece, each with its deadline. Once ctx is done nothing more is written.
type pieces struct {
	ctx  context.Context
	w    http.ResponseWriter
	c    *http.ResponseController
	stop func() bool

	mu       sync.Mutex // of what follows: the end of ctx comes from outside
	finished bool
}

func newPieces(ctx context.Context, w http.ResponseWriter) *pieces {
	p := &pieces{ctx: ctx, w: w, c: http.NewResponseController(w)}
	p.stop = context.AfterFunc(ctx, func() { p.deadline(0) })
	return p
}

// deadline gives what is being written d from now on.
func (p *pieces) deadline(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.finished {
		_ = p.c.SetWriteDeadline(time.Now().Add(d))
	}
}

func (p *pieces) write(b []byte) error {
	for piece := range slices.Chunk(b, pieceSize) {
		p.deadline(pieceTimeout)
		if err := p.ctx.Err(); err != nil { // asked after the deadline was set, lest that outlives the end of ctx
			return err
		}
		if _, err := p.w.Write(piece); err != nil {
			return err
		}
	}
	_ = p.c.SetWriteDeadline(time.Time{}) // in HTTP/2 it would strike while the store is asked
	return nil
}

// finish is to be called last. What is yet to be written, the answer's end, has a deadline, too.
func (p *pieces) finish() {
	p.stop()
	p.deadline(pieceTimeout)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = true
}

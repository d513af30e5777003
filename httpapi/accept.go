package httpapi

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// The forms that a range of logs is answered in.
const (
	asPage   = "application/json"
	asLines  = "application/x-ndjson"
	asEvents = "text/event-stream"
)

// accepted is the form in which r asks for a range: the one with the greatest weight in Accept; of equal ones, one that is
// named goes before one that a wildcard means, and a page before all else. The two that stream are for those alone who name
// them. A page is also for those who accept none of the three, as curl's and browsers' defaults may have it.
//
// HTTP/1.0 gets no lines: there the end of a range that broke off looks like that of a whole one.
func accepted(r *http.Request) string {
	var page, lines, events weight
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if given, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(given, 64); err != nil || !(q >= 0 && q <= 1) {
				continue
			}
		}
		switch media {
		case asEvents:
			events = weight{q, 3}
		case asLines:
			lines = weight{q, 3}
		case asPage:
			page = weight{q, 3}
		case "application/*":
			page = page.unless(weight{q, 2})
		case "*/*":
			page = page.unless(weight{q, 1})
		}
	}
	form := asPage
	if lines.over(page) && r.ProtoAtLeast(1, 1) {
		form, page = asLines, lines
	}
	if events.over(page) {
		form = asEvents
	}
	return form
}

// A weight is how much a form is wanted, and how closely the Accept header names it: 3 is by its own name, 0 not at all.
type weight struct {
	q     float64
	close int
}

// unless is other where w is not as close: the closest range of the header counts.
func (w weight) unless(other weight) weight {
	if w.close >= other.close {
		return w
	}
	return other
}

// over reports whether w is acceptable and goes before other.
func (w weight) over(other weight) bool {
	return w.q > 0 && (w.q > other.q || w.q == other.q && w.close > other.close)
}

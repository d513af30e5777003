package httpapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"pipeproc/api"
)

// rangeQuery reads the query of a range of logs; limit, 1 to most, is absent's where it is left out or -1.
func rangeQuery(q url.Values, absent, most int) (rq api.RangeQuery, err error) {
	if rq.Start, err = bound(q, "start"); err != nil {
		return rq, err
	}
	if rq.End, err = bound(q, "end"); err != nil {
		return rq, err
	}
	rq.Limit = absent
	if q.Get("limit") != "-1" {
		if rq.Limit, err = number(q, "limit", absent, most); err != nil {
			return rq, err
		}
	}
	if rq.Exclusive, err = flag(q, "exclusive"); err != nil {
		return rq, err
	}
	direction, err := oneOf(q, "direction", "forward", "reverse")
	rq.Reverse = direction == "reverse"
	return rq, err
}

func bound(q url.Values, name string) (api.Bound, error) {
	if !q.Has(name) {
		return api.Bound{}, nil
	}
	return givenBound(q.Get(name))
}

// givenBound reads a bound that may not be left out.
func givenBound(s string) (api.Bound, error) {
	if s == "" {
		return api.Bound{}, api.Errorf(api.CodeInvalidRangeOffset, "the bound is empty")
	}
	return api.ParseBound(s)
}

// list reads what every list takes: limit, and after, a name that check knows.
func list(q url.Values, check func(string) error) (after string, limit int, err error) {
	if limit, err = number(q, "limit", api.DefaultListed, api.MaxListed); err != nil {
		return "", 0, err
	}
	if after = q.Get("after"); q.Has("after") {
		err = check(after)
	}
	return after, limit, err
}

// number reads a number from 1 to most.
func number(q url.Values, name string, absent, most int) (int, error) {
	if !q.Has(name) {
		return absent, nil
	}
	s := q.Get(name)
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most || strings.HasPrefix(s, "+") {
		return 0, api.Errorf(api.CodeInvalidRequest, "%s is 1 to %d", name, most)
	}
	return n, nil
}

// flag reads true or false; absent is false.
func flag(q url.Values, name string) (bool, error) {
	s, err := oneOf(q, name, "true", "false")
	return s == "true", err
}

// oneOf reads one of several words; absent is "".
func oneOf(q url.Values, name string, words ...string) (string, error) {
	s := q.Get(name)
	if q.Has(name) && !slices.Contains(words, s) {
		return "", api.Errorf(api.CodeInvalidRequest, "%s is %s", name, strings.Join(words, " or "))
	}
	return s, nil
}

package procs

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// resolver asks a DNS server that answers with records: addresses, or "= name" for an alias. nil: there is no such name.
func resolver(t *testing.T, records func(name string, of dnsmessage.Type) []string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // no datagrams: messages as over TCP
		go func() {
			defer theirs.Close()
			if err := answerQuery(theirs, records); err != nil {
				t.Errorf("the DNS server: %v", err)
			}
		}()
		return ours, nil
	}}
}

func answerQuery(c net.Conn, records func(string, dnsmessage.Type) []string) error {
	size := make([]byte, 2)
	if _, err := io.ReadFull(c, size); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(size))
	if _, err := io.ReadFull(c, query); err != nil {
		return err
	}
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return err
	}
	q, err := p.Question()
	if err != nil {
		return err
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	list := records(name, q.Type)
	h.Response, h.Authoritative, h.RecursionAvailable = true, true, true
	if list == nil {
		h.RCode = dnsmessage.RCodeNameError
	}
	m := dnsmessage.Message{Header: h, Questions: []dnsmessage.Question{q}}
	for _, text := range list {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}}
		if alias, ok := strings.CutPrefix(text, "= "); ok {
			r.Body = &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(alias + ".")}
		} else if addr := netip.MustParseAddr(text); addr.Is4() {
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		} else {
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		}
		switch r.Body.(type) {
		case *dnsmessage.AResource:
			if q.Type != dnsmessage.TypeA {
				continue
			}
		case *dnsmessage.AAAAResource:
			if q.Type != dnsmessage.TypeAAAA {
				continue
			}
		}
		m.Answers = append(m.Answers, r)
	}
	reply, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err
}

//go:build linux

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// wire is the network between one server and PostgreSQL: a relay that keeps its address, and behind it a toxiproxy that
// lasts for one fault. Toxics are not taken away again, which may block for ever where a connection is stuck; a new
// toxiproxy takes the place of the old one.
type wire struct {
	relay  *relay
	target string
	proxy  *toxiproxy.Proxy
}

// newWire listens for connections to target.
func newWire(target string) (*wire, error) {
	zerolog.SetGlobalLevel(zerolog.Disabled) // each connection and each toxic would be told of
	relay, err := newRelay(fmt.Sprint("127.0.0.1:", freePort()))
	if err != nil {
		return nil, err
	}
	w := &wire{relay: relay, target: target}
	return w, w.heal()
}

// toxic spoils what flows in one direction, also over the connections that there are; "upstream" is to PostgreSQL.
func (w *wire) toxic(kind, direction string, attributes map[string]int64) error {
	text, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // which may get stuck as well; what it has reached until then is spoilt
		_, err := w.proxy.Toxics.AddToxicJson(bytes.NewReader(text))
		done <- err
	}()
	select {
	case err = <-done:
		return err
	case <-time.After(2 * time.Second):
		return nil
	}
}

// cut resets all connections, and refuses new ones until heal.
func (w *wire) cut() { w.relay.turnTo() }

// heal resets what connections there are, and begins anew.
func (w *wire) heal() error {
	before := w.proxy
	w.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "postgres", "127.0.0.1:0", w.target)
	if err := w.proxy.Start(); err != nil {
		return errors.Join(errors.New("toxiproxy"), err)
	}
	w.relay.turnTo(w.proxy.Listen)
	if before != nil {
		go before.Stop()
	}
	return nil
}

func (w *wire) close() {
	w.relay.close()
	go w.proxy.Stop()
}

//go:build linux

package chaos

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	const toxiproxy = "github.com/Shopify/toxiproxy/v2"
	var stuck []goleak.Option // for ever, now and then, in what a wire has given up
	for _, f := range []string{
		"/toxics.(*ToxicStub).Run", ".(*ToxicLink).read", ".(*ToxicLink).write", ".(*ToxicCollection).AddToxicJson", ".(*Proxy).Stop",
	} {
		stuck = append(stuck, goleak.IgnoreAnyFunction(toxiproxy+f))
	}
	goleak.VerifyTestMain(m, stuck...)
}

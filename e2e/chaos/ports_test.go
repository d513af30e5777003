//go:build linux

package chaos

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// ports lie below those that the kernel gives to connections: what is restarted on its port finds it free.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

var portsTaken atomic.Int64

// freePort is a TCP port that nobody listens on. It is given once.
func freePort() int {
	for {
		n := int64(os.Getpid()*37) + portsTaken.Add(1)
		port := firstPort + int(n%(lastPort-firstPort))
		if ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			ln.Close()
			return port
		}
	}
}

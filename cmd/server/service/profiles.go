package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"pipeproc/httpapi"
)

// profilesAddress resolves the address of --pprof-listen; nil when there is none. Profiles tell what is in memory, and
// taking them costs time: so nobody else's machine gets at them, whatever the other flags say.
func profilesAddress(c *Config) (*net.TCPAddr, error) {
	if c.PprofListen == "" {
		return nil, nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", c.PprofListen)
	if err != nil {
		return nil, fmt.Errorf("--pprof-listen %s: it is host:port: %w", c.PprofListen, err)
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("--pprof-listen %s: other machines can reach this address, and profiles tell what is in memory; "+
			"only loopback addresses are taken, as 127.0.0.1:6060", c.PprofListen)
	}
	return tcp, nil
}

// listenForProfiles opens the listener of --pprof-listen, an endpoint of its own; none without the flag.
func (s *Service) listenForProfiles() ([]listener, error) {
	if s.profiles == nil {
		return nil, nil
	}
	ln, err := net.ListenTCP("tcp", s.profiles)
	if err != nil {
		return nil, fmt.Errorf("--pprof-listen: %w", err)
	}
	e := endpoint{tcp: s.profiles}
	return []listener{{ln, e, e.url(ln)}}, nil
}

// serveProfiles serves net/http/pprof under /debug/pprof/ and nothing else, but without cmdline: a flag may hold the
// database's password. It is a loop of the server: profiles that are being taken when it ends are cut off.
func (s *Service) serveProfiles(l listener) func(context.Context) error {
	mux := http.NewServeMux() // not the default one, which other packages may add to
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	owned := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page whose name was made to mean this machine could read profiles, and any page have some taken.
		if site := r.Header.Get("Sec-Fetch-Site"); !httpapi.LoopbackHost(r.Host) || site == "cross-site" || site == "same-site" {
			http.Error(w, "not for the pages of others", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return func(ctx context.Context) error {
		server := &http.Server{Handler: owned, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
			MaxHeaderBytes: maxHeaderBytes, BaseContext: func(net.Listener) context.Context { return ctx }}
		defer context.AfterFunc(ctx, func() { _ = server.Close() })()
		s.log.Info("serving profiles", "url", l.url+"/debug/pprof/")
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve profiles: %w", err)
		}
		return nil
	}
}

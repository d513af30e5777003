package service

import (
	"io/fs"
	"os"
)

// warn tells of what is allowed, but hardly meant so.
func (s *Service) warn() {
	for _, e := range s.endpoints {
		if s.keys != nil && e.tcp != nil && !e.tls && !e.tcp.IP.IsLoopback() {
			s.log.Warn("API keys can be read on their way to this address: other machines reach it, and it speaks no TLS, see --tls-cert",
				"listen", e.tcp.String())
		}
	}
	const read, change = 0o004, 0o002
	for _, f := range []struct {
		flag, name string
		others     fs.FileMode // what nobody else on this machine is to do with the file
	}{
		{"--api-keys-file", s.cfg.APIKeysFile, change},
		{"--tls-client-ca", s.cfg.TLSClientCA, change},
		{"--tls-key", s.cfg.TLSKey, read | change},
		{"--ticket-secret-file", s.cfg.TicketSecretFile, read | change},
	} {
		if f.name == "" {
			continue
		}
		if info, err := os.Stat(f.name); err == nil && info.Mode()&f.others != 0 {
			s.log.Warn("every user of this machine may read or change a file that lets clients in", "flag", f.flag, "file", f.name,
				"mode", info.Mode().Perm().String())
		}
	}
}

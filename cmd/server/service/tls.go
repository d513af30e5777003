package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// secure reads the TLS files, and answers what reads them again when they change; nil when TLS is not asked for.
func secure(c *Config, log *slog.Logger) (*tls.Config, *reloader, error) {
	if c.TLSCert == "" {
		return nil, nil, nil
	}
	var current atomic.Pointer[tls.Config]
	files := &reloader{what: "TLS", files: []string{c.TLSCert, c.TLSKey, c.TLSClientCA}, log: log,
		load: func(texts [][]byte) error {
			config, err := tlsConfig(texts[0], texts[1], texts[2])
			if err == nil {
				current.Store(config)
			}
			return err
		}}
	if err := files.first(); err != nil {
		return nil, nil, fmt.Errorf("--tls-cert, --tls-key, --tls-client-ca: %w", err)
	}
	config := current.Load().Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil }
	return config, files, nil
}

// tlsConfig is that of new connections. ca is nil where clients need no certificate.
func tlsConfig(cert, key, ca []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if ca == nil {
		return config, nil
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(ca) {
		return nil, errors.New("authorities of clients: the file holds no certificate")
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.SessionTicketsDisabled = true // each connection is to show a certificate that is good now
	return config, nil
}

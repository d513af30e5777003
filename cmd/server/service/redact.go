package service

import (
	"errors"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// checkDatabaseURL reads a database URL as pgx will. What is wrong is told without the URL: its password may stand anywhere
// in one that cannot be read, and where it can, pgx tells some ways to write it.
func checkDatabaseURL(text string) error {
	_, err := pgx.ParseConfig(text)
	if err == nil {
		return nil
	}
	unreadable := errors.New("it is not as postgres://user:password@host:port/database?sslmode=…, percent-encoded where need be " +
		"(what is wrong is not told: it may be the password)")
	u, parsed := url.Parse(text)
	cause := errors.Unwrap(err)
	if parsed != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || cause == nil {
		return unreadable
	}
	told := cause.Error()
	for _, secret := range secretsOf(u) {
		if strings.Contains(told, secret) {
			return unreadable
		}
	}
	return errors.New(told)
}

// secretsOf are the values in a database URL that nobody is to read.
func secretsOf(u *url.URL) (secrets []string) {
	if password, ok := u.User.Password(); ok && password != "" {
		secrets = append(secrets, password)
	}
	for name, values := range u.Query() {
		if strings.Contains(strings.ToLower(name), "password") {
			for _, v := range values {
				if v != "" {
					secrets = append(secrets, v)
				}
			}
		}
	}
	return secrets
}

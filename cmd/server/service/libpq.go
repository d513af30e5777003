package service

import (
	"errors"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
)

// libpqNames are the parameters of a database URL that PostgreSQL's programs take from the environment, and how.
var libpqNames = map[string]string{
	"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE", "database": "PGDATABASE", "user": "PGUSER",
	"password": "PGPASSWORD", "passfile": "PGPASSFILE", "service": "PGSERVICE", "servicefile": "PGSERVICEFILE",
	"sslmode": "PGSSLMODE", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT", "sslsni": "PGSSLSNI",
	"sslnegotiation": "PGSSLNEGOTIATION", "channel_binding": "PGCHANNELBINDING", "krbsrvname": "PGKRBSRVNAME",
	"target_session_attrs": "PGTARGETSESSIONATTRS", "connect_timeout": "PGCONNECT_TIMEOUT", "options": "PGOPTIONS",
	"application_name": "PGAPPNAME", "client_encoding": "PGCLIENTENCODING",
}

// ours are parameters that tell this program how to use its connections, and PostgreSQL's nothing.
var ours = []string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity"}

// libpqEnvironment is the environment in which PostgreSQL's programs connect to where dbURL leads. It may hold a password:
// on the command line everybody on the machine would see it.
func libpqEnvironment(dbURL string) ([]string, error) {
	parameters, err := connectionParameters(dbURL)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	var options []string
	for name, value := range parameters {
		switch variable, ok := libpqNames[name]; {
		case ok:
			values[variable] = value
		case !slices.Contains(ours, name) && !strings.HasPrefix(name, "pool_"):
			options = append(options, "-c "+name+"="+strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(value))
		}
	}
	slices.Sort(options)
	if len(options) > 0 {
		values["PGOPTIONS"] = strings.TrimSpace(values["PGOPTIONS"] + " " + strings.Join(options, " "))
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		_, replaced := values[name]
		return replaced || name == "PGHOSTADDR" || strings.HasPrefix(name, "PIPEPROC_") || name == "DATABASE_URL"
	})
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return env, nil
}

// connectionParameters reads a URL, or the form "host=… port=…".
func connectionParameters(text string) (map[string]string, error) {
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return keywordParameters(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("the database URL is malformed") // url's error would tell the password
	}
	all := map[string]string{}
	if u.User != nil {
		all["user"] = u.User.Username()
		if password, ok := u.User.Password(); ok {
			all["password"] = password
		}
	}
	var hosts, ports []string
	for host := range strings.SplitSeq(u.Host, ",") {
		name, port := host, ""
		if n, p, err := net.SplitHostPort(host); err == nil {
			name, port = n, p
		}
		hosts, ports = append(hosts, strings.Trim(name, "[]")), append(ports, port)
	}
	if u.Host != "" {
		all["host"] = strings.Join(hosts, ",")
		if strings.Join(ports, "") != "" {
			all["port"] = strings.Join(ports, ",")
		}
	}
	if name := strings.TrimPrefix(u.Path, "/"); name != "" {
		all["dbname"] = name
	}
	for name, values := range u.Query() {
		all[name] = values[0]
	}
	return all, nil
}

// keywordParameters reads words of the form name=value, or name='value', with \ before ' and \.
func keywordParameters(text string) (map[string]string, error) {
	malformed := errors.New("the database URL is neither postgres://… nor of the form host=… dbname=…")
	all := map[string]string{}
	for {
		text = strings.TrimLeft(text, " \t\r\n")
		if text == "" {
			return all, nil
		}
		name, rest, ok := strings.Cut(text, "=")
		name, rest = strings.TrimSpace(name), strings.TrimLeft(rest, " \t\r\n")
		if !ok || name == "" {
			return nil, malformed
		}
		quoted := strings.HasPrefix(rest, "'")
		rest = strings.TrimPrefix(rest, "'")
		var value strings.Builder
		closed := false
		for rest != "" && !closed {
			c := rest[0]
			rest = rest[1:]
			switch {
			case c == '\\' && rest != "":
				value.WriteByte(rest[0])
				rest = rest[1:]
			case quoted && c == '\'', !quoted && strings.IndexByte(" \t\r\n", c) >= 0:
				closed = true
			default:
				value.WriteByte(c)
			}
		}
		if quoted && !closed {
			return nil, malformed
		}
		all[name] = value.String()
		text = rest
	}
}

package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"pipeproc/api"
)

// A Role says what the holder of an API key may do. Each allows what those before it do, and more.
type Role int

// The roles. RoleNone is what routes need that are open to everybody.
const (
	RoleNone  Role = iota
	RoleRead       // ranges, tails, inspect, wait, metrics
	RoleWrite      // commit, procs and liveProcs
	RoleAdmin      // systemProcs, the deletion of topics, GC, shutdown
)

var roleNames = []string{"none", "read", "write", "admin"}

func (r Role) String() string { return roleNames[r] }

// ParseRole reads read, write or admin.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames, s); i > 0 {
		return Role(i), nil
	}
	return RoleNone, fmt.Errorf("role %q: it is read, write or admin", s)
}

// keyPrefix begins every API key, so that who finds one, or scans for such things, knows what it is.
const keyPrefix = "pipeproc_"

// NewKey makes an API key: the key, for its holder alone, and the line of a keys file that lets it in.
func NewKey(name string, role Role) (key, line string, err error) {
	if err := checkKeyName(name); err != nil {
		return "", "", err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	key = keyPrefix + base64.RawURLEncoding.EncodeToString(secret)
	hash := sha256.Sum256([]byte(key))
	return key, fmt.Sprintf("%s %s %s%x", name, role, hashPrefix, hash), nil
}

// hashPrefix begins the hash in a line of a keys file.
const hashPrefix = "sha256:"

func checkKeyName(name string) error {
	if api.CheckProc(name) != nil {
		return fmt.Errorf("name %q: a key's name is 1 to 128 letters, digits, _ and -", clip(name))
	}
	return nil
}

// Keys are the API keys that let in. They may be replaced while requests come.
type Keys struct{ all atomic.Pointer[[]*key] }

// key is an API key as far as the server knows it: it cannot be told from the hash.
type key struct {
	name string
	role Role
	hash [sha256.Size]byte

	lives  context.Context // ends when the key is removed
	remove context.CancelFunc
}

// NewKeys makes keys, of which there are none until they are loaded: nobody is let in.
func NewKeys() *Keys {
	k := new(Keys)
	k.all.Store(new([]*key))
	return k
}

// Load replaces the keys by those of a keys file: a line for each, as NewKey makes them; empty lines and those that begin
// with # do not count. The errors tell the line; nothing has changed then. added and removed are names: a key whose hash or
// role has changed is one that was removed and one that was added. Streams of a removed key end.
func (k *Keys) Load(file []byte) (added, removed []string, err error) {
	parsed, err := parseKeys(file)
	if err != nil {
		return nil, nil, err
	}
	old := *k.all.Load()
	for i, p := range parsed {
		if known := slices.IndexFunc(old, p.same); known >= 0 {
			parsed[i] = old[known]
			continue
		}
		added = append(added, p.name)
	}
	for _, p := range parsed {
		if p.lives == nil {
			p.lives, p.remove = context.WithCancel(context.Background())
		}
	}
	k.all.Store(&parsed)
	for _, o := range old {
		if !slices.Contains(parsed, o) {
			removed = append(removed, o.name)
			o.remove()
		}
	}
	return added, removed, nil
}

// Len is the number of keys.
func (k *Keys) Len() int { return len(*k.all.Load()) }

func (k *key) same(other *key) bool {
	return k.name == other.name && k.role == other.role && k.hash == other.hash
}

func parseKeys(file []byte) (keys []*key, err error) {
	scanner := bufio.NewScanner(bytes.NewReader(file))
	names, hashes := map[string]bool{}, map[[sha256.Size]byte]bool{}
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		switch {
		case err != nil:
		case names[k.name]:
			err = fmt.Errorf("the name %q is taken by a line above", k.name)
		case hashes[k.hash]:
			err = errors.New("the key is that of a line above")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		names[k.name], hashes[k.hash] = true, true
		keys = append(keys, k)
	}
	return keys, scanner.Err()
}

// parseKey reads a line. What is wrong with it is told without the line: it may be the key itself.
func parseKey(line string) (*key, error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return nil, errors.New("a line is NAME ROLE sha256:HASH, as server keygen prints it")
	}
	k := &key{name: fields[0]}
	if api.CheckProc(k.name) != nil {
		return nil, errors.New("a key's name is 1 to 128 letters, digits, _ and -")
	}
	var err error
	if k.role, err = ParseRole(fields[1]); err != nil {
		return nil, errors.New("a key's role is read, write or admin")
	}
	text, ok := strings.CutPrefix(fields[2], hashPrefix)
	hash, err := hex.DecodeString(text)
	if !ok || err != nil || len(hash) != len(k.hash) {
		return nil, errors.New("a key's hash is sha256: and 64 hexadecimal digits")
	}
	k.hash = [sha256.Size]byte(hash)
	return k, nil
}

// find is the key that a caller sent; nil: none. How long that takes tells nothing of the hashes: all are compared, each in
// constant time.
func (k *Keys) find(sent string) *key {
	hash := sha256.Sum256([]byte(sent))
	var found *key
	for _, one := range *k.all.Load() {
		if subtle.ConstantTimeCompare(one.hash[:], hash[:]) == 1 {
			found = one
		}
	}
	return found
}

// keyID names a key in tickets: it changes with the key, and its role.
type keyID [16]byte

func (k *key) id() keyID {
	h := sha256.New()
	h.Write(k.hash[:])
	h.Write([]byte(k.name + " " + k.role.String()))
	return keyID(h.Sum(nil))
}

// named is the key of an id; nil: it is gone.
func (k *Keys) named(id keyID) *key {
	for _, one := range *k.all.Load() {
		if one.id() == id {
			return one
		}
	}
	return nil
}

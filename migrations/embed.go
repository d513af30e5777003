// Package migrations holds the schema of a namespace, as pairs of steps up and down.
package migrations

import "embed"

// Files are the steps, NNNNNN_name.up.sql and NNNNNN_name.down.sql. They run with the namespace's schema as search_path.
//
//go:embed *.sql
var Files embed.FS

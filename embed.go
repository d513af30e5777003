// Package pipeproc carries the contract of the service: its OpenAPI document.
package pipeproc

import _ "embed"

// OpenAPI is openapi.yaml, as the server serves it.
//
//go:embed openapi.yaml
var OpenAPI []byte

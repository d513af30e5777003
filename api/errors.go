// Package api holds what the rooms share: the types of the domain, which are the types of the wire; the rules, as pure
// functions; the error codes; and the roles of the store, as interfaces.
//
// Times are epoch ms of the database's clock, durations whole ms.
package api

import (
	"errors"
	"fmt"
	"time"
)

// Code names one way in which a request is refused. Codes are part of the wire: they never change their meaning.
type Code string

// The codes, grouped by the HTTP status that httpapi gives them.
const (
	CodeInvalidRequest      Code = "invalid_request"
	CodeInvalidTopicFormat  Code = "invalid_topic_format"
	CodeInvalidProcFormat   Code = "invalid_proc_format"
	CodeInvalidLogFormat    Code = "invalid_log_format"
	CodeInvalidRangeOffset  Code = "invalid_range_offset"
	CodeNoValidProcessor    Code = "no_valid_processor_provided"
	CodeUnauthorized        Code = "unauthorized"
	CodeForbidden           Code = "forbidden"
	CodeNotFound            Code = "not_found"
	CodeInvalidTopic        Code = "invalid_topic"
	CodeInvalidProc         Code = "invalid_proc"
	CodeInvalidSystemProc   Code = "invalid_system_proc"
	CodeLogNotFound         Code = "log_not_found"
	CodeMethodNotAllowed    Code = "method_not_allowed"
	CodeAlreadyClaimed      Code = "already_claimed"
	CodeClaimLost           Code = "claim_lost"
	CodeInvalidAck          Code = "invalid_ack"
	CodeNothingToReclaim    Code = "nothing_to_reclaim"
	CodeProcIsDisabled      Code = "proc_is_disabled"
	CodeProcAlreadyDisabled Code = "proc_already_disabled"
	CodeProcAlreadyActive   Code = "proc_already_active"
	CodeProcNameNotUnique   Code = "proc_name_not_unique"
	CodeProcOptionsDiffer   Code = "proc_options_differ"
	CodeProcIsManaged       Code = "proc_is_managed"
	CodeTopicInUse          Code = "topic_in_use"
	CodeCollected           Code = "collected"
	CodeTooLarge            Code = "too_large"
	CodeUnsupportedMedia    Code = "unsupported_media_type"
	CodeInvalidToneIDSearch Code = "invalid_tone_id_search"
	CodeKeyReused           Code = "idempotency_key_reused"
	CodeRateLimited         Code = "rate_limited"
	CodeInternal            Code = "internal"
	CodeOverloaded          Code = "overloaded"
	CodeUnavailable         Code = "unavailable"
)

// Error is a refusal that the caller is told. It is made where the rule is broken, and travels unchanged to the wire.
// Every error that is not an *Error is the server's own fault: the caller sees CodeInternal, the log the cause.
type Error struct {
	Code    Code
	Message string

	// ExpiresAt is told with CodeAlreadyClaimed: when the live claim ends, nil when it never does.
	ExpiresAt *int64
	// FirstID is told with CodeCollected: the first retained log, nil when the topic is empty.
	FirstID *ID
	// RetryAfter is told with CodeOverloaded, CodeUnavailable and CodeRateLimited.
	RetryAfter time.Duration
	// Quota may be told with CodeRateLimited: of what there are too many at a time.
	Quota *Quota
}

// Quota is how many of something one client may have at a time.
type Quota struct {
	Name string // a word
	Most int
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an *Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf tells the code of err: "" for nil, CodeInternal for whatever is not an *Error.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

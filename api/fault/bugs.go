package fault

// The bugs that can be planted. Each breaks one promise, as somebody might who does not know why the code is as it is.
const (
	// Seqs come from a counter that moves on outside the transaction that adds the logs.
	SeqsBeforeCommit = "seqs-before-commit"
	// An ack acts on the live claim, whatever its token.
	AckAnyToken = "ack-any-token" //nolint:gosec // the name of a bug, no credential
	// GC keeps nothing for procs that never claimed, and for disabled ones.
	ForgottenProcs = "forgotten-procs"
	// Nobody looks for what has changed while the listener was away: neither when it is back, nor now and then.
	NoLook = "no-look"
	// Requests are answered before COMMIT is sent.
	EarlyAnswers = "early-answers"
	// A COMMIT that got no answer is taken for one that did not happen.
	BlindRetry = "blind-retry"
	// A commit to several topics is a transaction for each of them.
	SplitCommits = "split-commits"
	// The timestamp is the server's clock from before the locks.
	EarlyClock = "early-clock"
	// A claim whose time-out is due can still be acked.
	NoTimeouts = "no-timeouts"
	// The answer of a commit with an Idempotency-Key is not kept.
	ForgottenKeys = "forgotten-keys"
	// An ackCommit acks in one transaction and commits its logs in another.
	TornAckCommits = "torn-ack-commits"
	// A tail that comes back passes a log over.
	SkippingTails = "skipping-tails"
	// A liveProc's claim that is sent again has one log less.
	ShorterResends = "shorter-resends"
)

// PlantedHalfway is the point at which a planted bug is between two steps that are to be one.
const PlantedHalfway = "planted.halfway"

// Package fault holds the places at which tests make the service fail: points at which a process kills itself, and bugs
// that are planted to see whether a check finds them.
//
// Without the build tag "faults", as in every release, both are empty functions that the compiler removes, their names
// with them. With it they do what the environment of the process asks for:
//
//	PIPEPROC_FAULT_KILL=batch.sent:40@8s    at the 40th passing of that point (without a number: the first) once it is
//	                                        8 s old (without a time: at once) the process
//	PIPEPROC_FAULT_MARK=/path               adds a line with the point's name to that file, then kills itself by SIGKILL
//	PIPEPROC_FAULT_PLANTED=name,name        the bugs in force
package fault

// The points. Each names a moment at which the process may die: what must hold then is told beside it.
const (
	// A batch that locks rows and decides has been gathered, nothing was sent: its requests have no effect.
	BatchBegins = "batch.begins"
	// Its rows are locked and its requests decided; neither writes nor COMMIT were sent: no effect, and PostgreSQL frees the
	// locks.
	BatchLocked = "batch.locked"
	// Writes and COMMIT were sent, no answer was read, also of a batch that only adds logs: all of it has happened, or
	// nothing.
	BatchSent = "batch.sent"
	// PostgreSQL has committed the batch, nobody was answered: all of it has happened.
	BatchCommitted = "batch.committed"
	// A batch that only adds logs has been gathered, nothing was sent.
	AppendBegins = "append.begins"
	// PostgreSQL has committed it, nobody was answered.
	AppendCommitted = "append.committed"
	// Rows for new topics were made in a transaction of their own, the batch that needs them was not: there is no such topic
	// for anybody, and the sweep removes the rows.
	TopicReserved = "topic.reserved"

	// A systemProc's proc was claimed, its processor was not called: the claim's time-out hands the logs out again.
	JobClaimed = "job.claimed"
	// The processor has answered, the ack and the output were not sent: it is called again for the same logs, and its output
	// is committed once.
	JobAnswered = "job.answered"
	// A liveProc has a claim that was not sent to its stream: whichever stream comes next gets it, under the same token.
	LiveClaimed = "live.claimed"

	// GC has given up logs of a topic, their rows are still there: nobody sees them, and the next run removes them.
	CollectFloorMoved = "collect.floor-moved"
	// A batch of such rows is gone, which is not noted yet: the next run looks at them in vain and goes on.
	CollectRowsRemoved = "collect.rows-removed"
	// It is noted, and there may be more of them.
	CollectBatchDone = "collect.batch-done"

	// A migration is about to be sent with its version, as one transaction: the next server runs it.
	MigrationBegins = "migration.begins"
	// Both are there, and the next migration was not begun: the next server goes on with it.
	MigrationDone = "migration.done"
)

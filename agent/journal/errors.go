package journal

import "errors"

// Sentinels of this package.
var (
	// ErrUnwritable: the journal can't be written, so nothing may be injected.
	ErrUnwritable = errors.New("journal can't be written")
	// ErrNotRunning: no process holds the run any more.
	ErrNotRunning = errors.New("run has ended")
	// ErrInUse: another process holds the run.
	ErrInUse = errors.New("run is in use")
)

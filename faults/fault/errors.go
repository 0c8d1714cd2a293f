package fault

import "errors"

// Sentinels that more than one package returns and a caller may match.
var (
	// ErrNotBuilt: the document is right, but this version of Faultline does
	// not have it yet. The command line ends with status 2.
	ErrNotBuilt = errors.New("not built yet")
	// ErrUnavailable: this machine lacks what a mechanism needs.
	ErrUnavailable = errors.New("not available on this machine")
	// ErrGone: what a Watch looks at does not exist any more.
	ErrGone = errors.New("gone")
)

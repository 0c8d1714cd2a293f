package netns

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// exclusiveWait is how long another process is waited for. It needs
	// milliseconds, unless it is frozen, and nothing may keep from undoing.
	exclusiveWait = 2 * time.Second
	exclusivePoll = 2 * time.Millisecond
)

// Exclusively calls fn while no other process of ours, and nobody else in this
// one, adds a filter to an interface of the namespace, removes one, or looks at
// them. Between the look for filters and the removal of an idle clsact a filter
// of another run would go with it, and a clsact that is about to get its filter
// would seem to be left behind.
//
// The lock is flock(2) on the namespace itself, which all that have it open
// share, and which the kernel drops with the process.
func (n *Namespace) Exclusively(fn func() error) error {
	// A lock belongs to one opening of the file.
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", n.fd()))
	if err != nil {
		return fmt.Errorf("opening %s again: %w", n, err)
	}
	defer func() { _ = file.Close() }()
	for end := time.Now().Add(exclusiveWait); ; time.Sleep(exclusivePoll) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(end) {
			return fn()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", n, err)
		}
	}
}

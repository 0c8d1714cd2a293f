package cgroupfile

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A write that takes too long is ended by a signal, as a wait is.
func TestLongWriteIsInterrupted(t *testing.T) {
	for _, limit := range []time.Duration{-time.Second, 50 * time.Millisecond} {
		err := interruptible(time.Now().Add(limit), func() error {
			n, err := unix.Poll(nil, int(time.Minute/time.Millisecond))
			if n == 0 && err == nil {
				return errors.New("waited to the end")
			}
			return err
		})
		if !errors.Is(err, unix.EINTR) {
			t.Errorf("error %v", err)
		}
	}
	if err := interruptible(time.Now().Add(time.Minute), func() error { return unix.ENOSPC }); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
}

func TestOnlyFilesOfFaultsAreWritten(t *testing.T) {
	if err := (&Dir{}).update(nil, "cgroup.procs", "1", time.Time{}); err == nil {
		t.Error("wrote cgroup.procs")
	}
	for _, file := range []string{MemoryHigh, PidsMax} {
		if err := (&Dir{}).update(nil, file, "many", time.Time{}); err == nil {
			t.Errorf("wrote %s", file)
		}
	}
}

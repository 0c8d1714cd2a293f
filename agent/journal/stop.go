package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// stopPoll is how often Stop asks whether the lock is free. A process that
// ends is noticed at once, by its pidfd.
const stopPoll = 50 * time.Millisecond

// Stop asks the process of a run to end it (SIGTERM) and waits until it has
// let go of the run. The signal goes through a pidfd that is known to be the
// holder of the lock, so no other process can get it. Errors match
// [ErrNotRunning] when nobody holds the run; ctx's when its end came first.
func Stop(ctx context.Context, run Run) error { return end(ctx, run, unix.SIGTERM) }

// Kill ends the process of a run at once (SIGKILL), as Stop does. What it leaves
// is for [Revert].
func Kill(ctx context.Context, run Run) error { return end(ctx, run, unix.SIGKILL) }

func end(ctx context.Context, run Run, signal unix.Signal) error {
	pid, alive, err := holder(run.Dir)
	switch {
	case err != nil:
		return fmt.Errorf("stopping run %s: %w", run.ID, err)
	case !alive:
		return fmt.Errorf("stopping run %s: %w", run.ID, ErrNotRunning)
	case pid == os.Getpid():
		return fmt.Errorf("stopping run %s: %w by this process", run.ID, ErrInUse)
	case pid == 0:
		return fmt.Errorf("stopping run %s: its process is in another PID namespace", run.ID)
	}
	// From here on the file is asked and not its path: the process renames
	// the directory before it is done with it.
	lock, err := os.Open(filepath.Join(run.Dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stopping run %s: %w", run.ID, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("stopping run %s: opening the lock: %w", run.ID, err)
	}
	defer lock.Close()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stopping run %s: %w", run.ID, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("stopping run %s: opening process %d: %w", run.ID, pid, err)
	}
	defer unix.Close(fd)
	// Between the answer and the pidfd the process may have ended and its
	// number been given to another. One that holds the lock now is the one.
	again, alive, err := lockHolder(lock)
	if err != nil {
		return fmt.Errorf("stopping run %s: %w", run.ID, err)
	}
	if !alive || again != pid {
		return fmt.Errorf("stopping run %s: %w", run.ID, ErrNotRunning)
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stopping run %s: signalling process %d: %w", run.ID, pid, err)
	}
	for {
		now, alive, err := lockHolder(lock)
		if err != nil {
			return fmt.Errorf("waiting for the end of run %s: %w", run.ID, err)
		}
		if !alive || now != pid {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for process %d to end run %s: %w", pid, run.ID, err)
		}
		wait := stopPoll
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, max(time.Until(end), time.Millisecond))
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(wait.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", pid, err)
		}
	}
}

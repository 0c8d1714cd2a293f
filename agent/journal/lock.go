package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A POSIX record lock (fcntl(2), "Advisory record locking") is what says that
// a run is alive: the kernel drops it with the process, however that ends, and
// F_GETLK names the holder. Its drawback is that closing any descriptor of the
// file drops the lock of the whole process, and that a process never sees its
// own lock. So each process notes which files it holds, and neither opens nor
// asks for these again.

// held mirrors the process-wide state that the kernel keeps for this process;
// like that it can't belong to anything smaller than the process.
var held = struct {
	sync.Mutex
	files map[fileID]bool
}{files: map[fileID]bool{}}

type fileID struct{ dev, ino uint64 }

func idOf(st os.FileInfo) fileID {
	s := st.Sys().(*syscall.Stat_t)
	return fileID{s.Dev, s.Ino}
}

// lockFile is a lock that this process holds.
type lockFile struct {
	f  *os.File
	id fileID
}

// acquire takes the lock at a path without waiting.
func acquire(path string) (*lockFile, error) {
	held.Lock()
	defer held.Unlock()
	if st, err := os.Stat(path); err == nil && held.files[idOf(st)] {
		return nil, fmt.Errorf("locking %s: %w by this process", path, ErrInUse)
	}
	kind := int16(unix.F_WRLCK)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EROFS) {
		// Reverting must work on a disk that has turned read-only. A write
		// lock needs a descriptor for writing; a read lock does not keep out
		// a second one who reverts, but undoing twice does no harm.
		kind = unix.F_RDLCK
		reading, missing := os.Open(path)
		if missing == nil {
			f, err = reading, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	lk := unix.Flock_t{Type: kind}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, ErrInUse), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	// The holder before may have removed the directory on its way out.
	now, err := os.Stat(path)
	if err != nil || idOf(now) != idOf(st) {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, ErrNotRunning), f.Close())
	}
	held.files[idOf(st)] = true
	return &lockFile{f: f, id: idOf(st)}, nil
}

// release drops the lock.
func (l *lockFile) release() error {
	held.Lock()
	defer held.Unlock()
	if !held.files[l.id] {
		return nil
	}
	delete(held.files, l.id)
	return l.f.Close()
}

// holder tells whether a process holds the lock of a run directory, and which.
// The PID is 0 for a process that can't be seen from this PID namespace.
func holder(dir string) (pid int, alive bool, err error) {
	held.Lock()
	defer held.Unlock()
	path := filepath.Join(dir, lockName)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking at the lock: %w", err)
	}
	if held.files[idOf(st)] {
		return os.Getpid(), true, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("opening the lock: %w", err)
	}
	defer f.Close()
	return lockHolder(f)
}

// lockHolder is holder of an open lock file of another process.
func lockHolder(f *os.File) (pid int, alive bool, err error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk); err != nil {
		return 0, false, fmt.Errorf("asking for the holder of %s: %w", f.Name(), err)
	}
	if lk.Type == unix.F_UNLCK {
		return 0, false, nil
	}
	return max(int(lk.Pid), 0), true, nil
}

// lockPoll is how often Lock tries.
const lockPoll = 10 * time.Millisecond

// Lock keeps other processes, and other callers in this one, from joining the
// runs of stateDir, which is made when it is missing, until unlock is called.
// It waits until ctx ends; the error then says who holds it.
func Lock(ctx context.Context, stateDir string) (unlock func() error, err error) {
	if err := makeDirs(stateDir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	path := filepath.Join(stateDir, lockName)
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		lock, err := acquire(path)
		if err == nil {
			return lock.release, nil
		}
		if !errors.Is(err, ErrInUse) {
			return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			pid, _, _ := holder(stateDir)
			return nil, fmt.Errorf("waiting for process %d, which is about to begin a run: %w", pid, ctx.Err())
		}
	}
}

package cgroupfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// The files that faults write.
const (
	CPUMax       = "cpu.max"
	MemoryHigh   = "memory.high"
	PidsMax      = "pids.max"
	CgroupFreeze = "cgroup.freeze"
)

// Unlimited is how the kernel writes that there is no limit.
const Unlimited = "max"

// write puts a value into a file, in the form in which the kernel prints it.
// It returns at the time limit at the latest, with the value in force.
func (d *Dir) write(name, value string, limit time.Time) error {
	// The library opens with O_CREAT, for which a missing file is EACCES.
	if _, err := d.Read(name); err != nil {
		return err
	}
	// The library asks for a path: the magic link of the open directory is the
	// cgroup itself, whatever lies at its path by now (proc_pid_fd(5)).
	manager, err := cgroup2.Load("/", cgroup2.WithMountpoint(fmt.Sprintf("/proc/self/fd/%d", d.file.Fd())))
	if err != nil {
		return fmt.Errorf("loading a cgroup: %w", err)
	}
	defer runtime.KeepAlive(d)
	err = d.update(manager, name, value, limit)
	if err != nil {
		// The path in it is of no use to a person.
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return fmt.Errorf("writing %q to %s: %w", value, name, err)
	}
	return nil
}

func (d *Dir) update(manager *cgroup2.Manager, name, value string, limit time.Time) error {
	switch name {
	case CPUMax:
		return manager.Update(&cgroup2.Resources{CPU: &cgroup2.CPU{Max: cgroup2.CPUMax(value)}})
	case MemoryHigh:
		bytes, err := number(value)
		if err != nil {
			return err
		}
		return interruptible(limit, func() error {
			return manager.Update(&cgroup2.Resources{Memory: &cgroup2.Memory{High: &bytes}})
		})
	case PidsMax:
		pids, err := number(value)
		switch {
		case err != nil:
			return err
		case pids == 0:
			// The library takes 0 for "not given" and writes nothing.
			return d.put(name, value)
		case value == Unlimited:
			pids = -1
		}
		return manager.Update(&cgroup2.Resources{Pids: &cgroup2.Pids{Max: pids}})
	case CgroupFreeze:
		// These return when the file holds the value, which it does at once:
		// that the processes have stopped is in cgroup.events.
		if value == "1" {
			return manager.Freeze()
		}
		return manager.Thaw()
	}
	return errors.New("faults don't write this file")
}

// number reads a limit. In the place of "max", which the library can't write,
// it gives the largest number, which the kernel takes for the same
// (page_counter_memparse).
func number(value string) (int64, error) {
	if value == Unlimited {
		return math.MaxInt64, nil
	}
	return strconv.ParseInt(value, 10, 64)
}

// put writes a file by the directory's descriptor.
func (d *Dir) put(name, value string) error {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = io.WriteString(file, value)
	return errors.Join(err, file.Close())
}

// nudge is the time between two signals.
const nudge = 10 * time.Millisecond

// interruptible runs fn, which writes memory.high, and makes it return at the
// limit. The kernel sets the value first, and then reclaims in the writer's
// time until the cgroup is below it, which may take many seconds, or until the
// writer has a signal (memory_high_write); the rest is left to the cgroup's own
// processes. SIGURG is what Go's scheduler sends to its own threads.
func interruptible(limit time.Time, fn func() error) error {
	thread, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		done <- fn()
	}()
	tid := <-thread
	timer := time.NewTimer(time.Until(limit))
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-timer.C:
			// One that comes before the call begins is lost, hence again.
			if err := unix.Tgkill(os.Getpid(), tid, unix.SIGURG); err != nil && !errors.Is(err, unix.ESRCH) {
				return errors.Join(fmt.Errorf("interrupting the write: %w", err), <-done)
			}
			timer.Reset(nudge)
		}
	}
}

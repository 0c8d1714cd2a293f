package kernel

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probePrefix begins the name of every cgroup that a probe makes.
const probePrefix = "faultline-probe-"

// withCgroup makes a child of the cgroup v2 root, calls fn with its path and
// removes it. What killed processes have left of such is removed too.
func withCgroup(root string, fn func(dir string) error) (err error) {
	if root == "" {
		return errNoCgroup2
	}
	dir, lock, err := makeCgroup(root)
	if err != nil {
		return atStage(stageSetup, err)
	}
	defer func() {
		if rerr := removeCgroup(dir); rerr != nil {
			err = errors.Join(err, atStage(stageSetup, fmt.Errorf("removing the probe cgroup: %w", rerr)))
		}
		_ = lock.Close()
	}()
	if stale, err := StaleCgroups(root); err == nil {
		for _, path := range stale {
			// Another one who probes may be faster, or it is not empty.
			_ = RemoveStaleCgroup(path)
		}
	}
	return fn(dir)
}

// makeCgroup makes a cgroup that is locked: it belongs to a process that is
// alive.
func makeCgroup(root string) (dir string, lock *os.File, err error) {
	// In the moment before it is locked it may be taken for a stale one.
	for range 100 {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", nil, fmt.Errorf("naming the probe cgroup: %w", err)
		}
		dir = filepath.Join(root, probePrefix+hex.EncodeToString(b[:]))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", nil, fmt.Errorf("making the probe cgroup: %w", err)
		}
		if lock, err = lockCgroup(dir); err == nil {
			if _, err = os.Stat(dir); err == nil {
				return dir, lock, nil
			}
			_ = lock.Close()
		}
		_ = os.Remove(dir)
	}
	return "", nil, fmt.Errorf("locking the probe cgroup: %w", err)
}

func lockCgroup(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// StaleCgroups lists the cgroups that processes have left which were killed
// while they probed.
func StaleCgroups(root string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(root, probePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for probe cgroups: %w", err)
	}
	var stale []string
	for _, dir := range found {
		if lock, err := lockCgroup(dir); err == nil {
			stale = append(stale, dir)
			_ = lock.Close()
		}
	}
	return stale, nil
}

// RemoveStaleCgroup removes one of StaleCgroups. It returns nil when it is gone
// or belongs to a process that is alive.
func RemoveStaleCgroup(dir string) error {
	lock, err := lockCgroup(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", dir, err)
	}
	defer func() { _ = lock.Close() }()
	if err := removeCgroup(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the cgroup of a probe: %w", err)
	}
	return nil
}

const (
	// emptyWait is how long a process may take to leave its cgroup after its
	// end was reported, or after its parent was killed: what it is the last to
	// hold is detached first, on a machine that may have better things to do.
	emptyWait = 10 * time.Second
	emptyPoll = time.Millisecond
)

// removeCgroup removes a cgroup whose processes have ended. A kernel may tell of
// a process's end (wait(2)) a moment before it lets it leave its cgroup: on
// 6.18 the directory was seen to be busy then.
func removeCgroup(dir string) error {
	for end := time.Now().Add(emptyWait); ; time.Sleep(emptyPoll) {
		err := os.Remove(dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w after %s: %s", err, emptyWait, members(dir))
		}
	}
}

// members tells who is in a cgroup: process ids, names and states.
func members(dir string) string {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, pid := range strings.Fields(string(procs)) {
		// "PID (name) state ..."; its end between the two reads leaves the id.
		stat, _ := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if end := bytes.LastIndexByte(stat, ')'); end > 0 {
			pid = string(stat[:min(end+3, len(stat))])
		}
		all = append(all, pid)
	}
	if len(all) == 0 {
		return "no process is in it"
	}
	return "in it: " + strings.Join(all, ", ")
}

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// Stranger returns a process that lives in the namespace and in none of the
// cgroups, as its PID and name; "" where all are theirs. One that has only sent a
// thread there, as agents do, does not live there. One of which that can't be seen
// may live there, and counts; one that can't be seen at all, in a PID namespace
// beside this one, is not found.
func (n *Namespace) Stranger(cgroups []fault.Cgroup) (string, error) {
	known, err := members(cgroups)
	if err != nil {
		return "", err
	}
	pids, err := processes()
	if err != nil {
		return "", err
	}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		if known[pid] {
			continue
		}
		resides, unseen := n.resident(dir)
		if !resides && unseen == nil {
			continue
		}
		// The target may have started it since.
		if known, err = members(cgroups); err != nil {
			return "", err
		}
		if known[pid] {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return "", fmt.Errorf("reading the name of process %d: %w", pid, err)
		}
		if unseen != nil {
			return fmt.Sprintf("%d (%s; or not, which can't be seen: %v)", pid, strings.TrimSpace(string(name)), unseen), nil
		}
		return fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(name))), nil
	}
	return "", nil
}

// processes lists what runs, as /proc shows it (proc(5)).
func processes() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// members lists the processes of cgroups. One that is gone has none.
func members(cgroups []fault.Cgroup) (map[int]bool, error) {
	known := map[int]bool{}
	for _, cgroup := range cgroups {
		pids, err := cgroup.Processes()
		if err != nil && !errors.Is(err, fault.ErrGone) {
			return nil, fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err)
		}
		for _, pid := range pids {
			known[pid] = true
		}
	}
	return known, nil
}

// resident tells whether all threads of a process are in the namespace. Those
// that have ended are nowhere.
func (n *Namespace) resident(dir string) (bool, error) {
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found := false
	for _, thread := range threads {
		var stat unix.Stat_t
		err := unix.Stat(filepath.Join(dir, "task", thread.Name(), "ns/net"), &stat)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return false, err
		}
		if stat.Ino != n.Inode {
			return false, nil
		}
		found = true
	}
	return found, nil
}

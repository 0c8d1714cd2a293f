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
// thread there, as agents do, does not live there. Processes of a PID
// namespace that can't be seen from here are not found.
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
		if known[pid] || !n.resident(dir) {
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

// resident tells whether all threads of a process are in the namespace.
func (n *Namespace) resident(dir string) bool {
	threads, err := filepath.Glob(dir + "/task/[0-9]*/ns/net")
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, thread := range threads {
		var stat unix.Stat_t
		if unix.Stat(thread, &stat) != nil || stat.Ino != n.Inode {
			return false
		}
	}
	return true
}

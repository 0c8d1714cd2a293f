package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// OnlyOf tells whether every process in the namespace is in one of the cgroups
// or below. A process that has only a socket from there, opened by another one,
// is not seen.
func (n *Namespace) OnlyOf(cgroups []fault.Cgroup) (bool, error) {
	// In the order of this pattern init comes first: of the host's own namespace
	// that is all there is to see.
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false, err
	}
	mine, err := processes(cgroups)
	if err != nil {
		return false, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || mine[pid] || !n.has(pid) {
			continue
		}
		// The target may have started it since.
		if mine, err = processes(cgroups); err != nil {
			return false, err
		}
		if !mine[pid] && n.has(pid) {
			return false, nil
		}
	}
	return true, nil
}

func processes(cgroups []fault.Cgroup) (map[int]bool, error) {
	pids := map[int]bool{}
	for _, cgroup := range cgroups {
		list, err := cgroup.Processes()
		if err != nil && !errors.Is(err, fault.ErrGone) {
			return nil, fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err)
		}
		for _, pid := range list {
			pids[pid] = true
		}
	}
	return pids, nil
}

// has tells whether the namespace is that of a process; one that has ended has
// none.
func (n *Namespace) has(pid int) bool {
	var stat unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &stat)
	return err == nil && stat.Ino == n.Inode
}

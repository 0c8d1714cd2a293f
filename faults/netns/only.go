package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// OnlyOf tells whether every process in the namespace is in one of the cgroups
// or below. A process that has only a socket from there, opened by another one,
// is not seen.
func (n *Namespace) OnlyOf(cgroups []fault.Cgroup) (bool, error) {
	// The processes of the namespace first: one that the target starts
	// meanwhile must not look like a stranger.
	inside, err := n.processes()
	if err != nil {
		return false, err
	}
	for _, cgroup := range cgroups {
		mine, err := cgroup.Processes()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err)
		}
		inside = slices.DeleteFunc(inside, func(pid int) bool {
			_, found := slices.BinarySearch(mine, pid)
			return found
		})
	}
	// Those that have ended meanwhile are in no cgroup.
	inside = slices.DeleteFunc(inside, func(pid int) bool { return !n.has(pid) })
	return len(inside) == 0, nil
}

// processes lists those whose namespace it is.
func (n *Namespace) processes() (pids []int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && n.has(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (n *Namespace) has(pid int) bool {
	var stat unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &stat)
	return err == nil && stat.Ino == n.Inode
}

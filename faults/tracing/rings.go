package tracing

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"faultline.dev/faultline/faults/fault"
)

// RingUsers lists the processes of cgroups that have an io_uring, by their ids: what they
// ask for there are no system calls of theirs.
func RingUsers(cgroups []fault.Cgroup) (users []string, err error) {
	pids, err := fault.Processes(cgroups)
	for _, pid := range pids {
		if name := strconv.Itoa(pid); hasRing(name) {
			users = append(users, name)
		}
	}
	return users, err
}

// hasRing looks at the descriptors of a process; one that has ended, or may not be
// looked at, has none.
func hasRing(pid string) bool {
	dir := filepath.Join("/proc", pid, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		return err == nil && link == "anon_inode:[io_uring]"
	})
}

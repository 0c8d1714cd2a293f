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
// cgroups, as its PID and name; "" where all are theirs. This process counts as
// one of them: it enters namespaces thread by thread. Processes of a PID
// namespace that can't be seen from here are not found.
func (n *Namespace) Stranger(cgroups []fault.Cgroup) (string, error) {
	known := map[int]bool{os.Getpid(): true}
	for _, cgroup := range cgroups {
		pids, err := cgroup.Processes()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err)
		}
		for _, pid := range pids {
			known[pid] = true
		}
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		dir := filepath.Dir(filepath.Dir(path))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || known[pid] {
			continue
		}
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || stat.Ino != n.Inode {
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

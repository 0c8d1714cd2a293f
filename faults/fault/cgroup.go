package fault

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Processes lists the processes of a cgroup and of its descendants. Those that
// come and go meanwhile may or may not be in it; a cgroup that is gone has
// none.
func (c Cgroup) Processes() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(c.Path, func(path string, entry fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		found, err := members(path)
		pids = append(pids, found...)
		return err
	})
	return pids, err
}

func members(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, unix.EOPNOTSUPP) {
		// A threaded cgroup lists its threads only; they are as good for
		// finding out about the process (cgroup-v2.rst, "Threads").
		text, err = os.ReadFile(filepath.Join(dir, "cgroup.threads"))
	}
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		// 0 stands for a process outside of our pid namespace.
		if pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// gone tells whether a cgroup was removed while it was read: the directory is
// not there any more, or the open file answers ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// Contains tells whether other is c or one of its descendants.
func (c Cgroup) Contains(other Cgroup) bool {
	return c.Path == other.Path || strings.HasPrefix(other.Path, c.Path+"/")
}

package fault

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Open opens the directory. Where another cgroup has taken the path since, it
// returns ErrGone: a target is never replaced by its namesake.
func (c Cgroup) Open() (*os.File, error) {
	dir, err := os.Open(c.Path)
	if gone(err) {
		return nil, fmt.Errorf("opening cgroup %s: %w", c.Path, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("opening cgroup: %w", err)
	}
	var stat unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &stat)
	if err == nil && stat.Ino != c.ID {
		err = ErrGone
	}
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("opening cgroup %s with id %d: %w", c.Path, c.ID, err)
	}
	return dir, nil
}

// Processes returns the PIDs of the processes in the cgroup and in all its
// descendants, sorted. A process that comes or goes meanwhile may be missed or
// be gone already; a descendant that goes is skipped. It returns ErrGone when
// the cgroup itself is gone, and an error when there are processes of a PID
// namespace that can't be seen from here.
func (c Cgroup) Processes() ([]int, error) {
	top, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = top.Close() }()
	pids := map[int]bool{}
	if err := collect(int(top.Fd()), pids); err != nil {
		return nil, fmt.Errorf("listing the processes of cgroup %s: %w", c.Path, err)
	}
	if pids[0] {
		return nil, fmt.Errorf("cgroup %s holds processes of another PID namespace: run in the host's PID namespace", c.Path)
	}
	return slices.Sorted(maps.Keys(pids)), nil
}

// Processes returns those of all cgroups that are not gone.
func Processes(cgroups []Cgroup) (pids []int, err error) {
	for _, c := range cgroups {
		list, err := c.Processes()
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pids = append(pids, list...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// collect adds the processes of the cgroup behind a descriptor and of its
// descendants. One that is gone has none.
func collect(dir int, pids map[int]bool) error {
	process := func(pid int) (int, bool) { return pid, true }
	text, err := readAt(dir, "cgroup.procs")
	if errors.Is(err, unix.EOPNOTSUPP) {
		// In a threaded cgroup only its threads can be listed (cgroup-v2.rst,
		// "Threads").
		text, err = readAt(dir, "cgroup.threads")
		process = threadGroup
	}
	if err != nil && !gone(err) {
		return err
	}
	for field := range strings.FieldsSeq(text) {
		id, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		if pid, ok := process(id); ok {
			pids[pid] = true
		}
	}
	return eachChild(dir, func(child int) error { return collect(child, pids) })
}

// eachChild opens the children of a cgroup one after another.
func eachChild(dir int, fn func(child int) error) error {
	// A descriptor of its own: reading a directory moves in it.
	self, err := openAt(dir, ".")
	if err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	defer func() { _ = self.Close() }()
	entries, err := self.ReadDir(-1)
	if err != nil && !gone(err) {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		child, err := openAt(dir, entry.Name())
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		err = fn(int(child.Fd()))
		_ = child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func openAt(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readAt(dir int, name string) (string, error) {
	file, err := openAt(dir, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	return string(text), err
}

// threadGroup returns the process of a thread (proc_pid_status(5)),
// 0 for one that can't be seen; ok is false for one that has ended.
func threadGroup(id int) (pid int, ok bool) {
	if id == 0 {
		return 0, true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "Tgid:"); found {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			return pid, err == nil
		}
	}
	return 0, false
}

// gone tells whether a cgroup was removed while it was read: the directory is
// not there any more, or the open file answers ENODEV.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// Contains tells whether other is c or one of its descendants.
func (c Cgroup) Contains(other Cgroup) bool {
	return c.Path == other.Path || strings.HasPrefix(other.Path, c.Path+"/")
}

// Shared returns the path of a cgroup that both lists hold, by itself or as a
// descendant, or "".
func Shared(a, b []Cgroup) string {
	for _, mine := range a {
		for _, theirs := range b {
			if mine.Contains(theirs) {
				return theirs.Path
			}
			if theirs.Contains(mine) {
				return mine.Path
			}
		}
	}
	return ""
}

// Limits of bpf/include/targets.h.
const (
	levelsMax  = 24
	targetsMax = 4096
)

// CheckTargets says what of the cgroups programs that tell a target by its id
// can't take.
func CheckTargets(cgroups []Cgroup) error {
	for _, c := range cgroups {
		if c.Level >= levelsMax {
			return fmt.Errorf("%s is %d levels below the root of the hierarchy; at most %d are supported", c.Path, c.Level, levelsMax-1)
		}
	}
	if len(cgroups) > targetsMax {
		return fmt.Errorf("the target has %d cgroups; at most %d are supported", len(cgroups), targetsMax)
	}
	return nil
}

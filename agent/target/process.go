package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pfKthread marks a kernel thread in the flags of /proc/PID/stat
// (PF_KTHREAD, include/linux/sched.h).
const pfKthread = 0x00200000

// statusField reads one field of /proc/PID/status (proc(5)).
func (r *Resolver) statusField(pid int, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(r.proc(), strconv.Itoa(pid), "status"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("/proc/%d/status has no %s", pid, name)
}

// pid resolves a target of kind pid.
func (r *Resolver) pid(h *hierarchy, pid int) ([]string, error) {
	if pid <= 0 {
		return nil, tag(ErrInvalid, fmt.Errorf("pid %d: it must be above 0", pid))
	}
	tgid, err := r.statusField(pid, "Tgid")
	if err != nil {
		return nil, r.pidError(pid, err)
	}
	if tgid != strconv.Itoa(pid) {
		return nil, tag(ErrInvalid, fmt.Errorf("pid %d is a thread of process %s: name the process", pid, tgid))
	}
	stat, err := r.stat(pid)
	if err != nil {
		return nil, r.pidError(pid, err)
	}
	if stat.flags&pfKthread != 0 {
		return nil, tag(ErrProtected, fmt.Errorf("pid %d is a kernel thread (%s), not a program", pid, stat.comm))
	}
	if stat.state == "Z" || stat.state == "X" {
		return nil, tag(ErrNotFound, fmt.Errorf("pid %d (%s) has ended and waits for its parent", pid, stat.comm))
	}
	path, err := r.cgroupOf(pid)
	if err != nil {
		return nil, r.pidError(pid, err)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return nil, tag(ErrNotFound, fmt.Errorf("pid %d (%s) is in a cgroup that was removed: %s", pid, stat.comm, path))
	}
	rel, ok := parseNSPath(path).below(h.shown)
	if !ok {
		return nil, tag(ErrNotFound, fmt.Errorf("pid %d (%s) is in cgroup %s, which can't be reached through %s", pid, stat.comm, path, h.root))
	}
	if rel == "." {
		return nil, tag(ErrProtected, fmt.Errorf("pid %d (%s) is in the root cgroup, a fault there would hit the whole machine: start it in a cgroup of its own, e.g. with systemd-run --scope", pid, stat.comm))
	}
	return []string{rel}, nil
}

func (r *Resolver) pidError(pid int, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return tag(ErrNotFound, fmt.Errorf("no process has pid %d", pid))
	}
	return fmt.Errorf("reading the cgroup of pid %d: %w", pid, err)
}

// cgroupOf returns the path of a process in the unified hierarchy, relative to
// this process's cgroup namespace: the line "0::" (cgroups(7)).
func (r *Resolver) cgroupOf(pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join(r.proc(), strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", tag(ErrNoCgroup2, fmt.Errorf("pid %d is in no cgroup of the unified hierarchy: %w", pid, ErrNoCgroup2))
}

type procStat struct {
	comm  string
	state string
	flags uint64
}

// stat reads /proc/PID/stat (proc(5)); the name may hold spaces and brackets.
func (r *Resolver) stat(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join(r.proc(), strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("/proc/%d/stat has no name", pid)
	}
	fields := strings.Fields(s[end+1:])
	if len(fields) < 7 {
		return procStat{}, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return procStat{comm: s[open+1 : end], state: fields[0], flags: flags}, nil
}

package target

import (
	"context"
	"errors"
	"fmt"

	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// guarded are programs that a person or a scheduler needs to get back into
// the machine, by the base name of their executable.
var guarded = map[string]string{
	"sshd":         "sshd",
	"sshd-session": "sshd", // OpenSSH 9.8 runs each session in a program of its own
	"sshd-auth":    "sshd", // and the log-in in another, since 10.0
	"dropbear":     "the SSH server dropbear",
	"kubelet":      "kubelet",
	"k3s":          "k3s, which is kubelet and the container runtime",
	"kubelite":     "kubelite, which is kubelet",
	"containerd":   "the container runtime containerd",
	"crio":         "the container runtime CRI-O",
	"dockerd":      "the container runtime dockerd",
}

// protect refuses the cgroup when PID 1, the agent or a guarded program is in
// it or in a descendant: a fault reaches all of them.
func (r *Resolver) protect(ctx context.Context, h *hierarchy, rel string, c fault.Cgroup) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("cgroup %s is %w: %s", c.Path, ErrProtected, fmt.Sprintf(format, args...))
	}
	if rel == "." || c.ID == rootInode {
		return refuse("it is the root of the hierarchy")
	}
	// By the paths first: this holds for a process at any moment, while the
	// list below is read one cgroup after the other.
	for _, p := range []struct {
		pid  int
		name string
	}{{1, "PID 1"}, {r.SelfPID, "this program"}} {
		if p.pid == 0 {
			continue
		}
		path, err := r.cgroupOf(p.pid)
		if err != nil {
			return fmt.Errorf("reading the cgroup of %s: %w", p.name, err)
		}
		at, ok := parseNSPath(path).below(h.shown)
		if !ok {
			continue // outside of what is mounted here, or found by the list
		}
		if at == rel {
			return refuse("it is the cgroup of %s", p.name)
		}
		if strings.HasPrefix(at, rel+"/") {
			return refuse("it contains the cgroup of %s, %s", p.name, filepath.Join(h.root, at))
		}
	}
	pids, err := c.Processes()
	if errors.Is(err, fault.ErrGone) {
		return tag(ErrNotFound, err)
	}
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case pid == 1:
			return refuse("PID 1 is in it")
		case pid == r.SelfPID:
			return refuse("this program (pid %d) is in it", pid)
		}
		name, err := r.program(pid)
		if err != nil {
			return fmt.Errorf("looking for protected programs in cgroup %s: %w", c.Path, err)
		}
		if what, ok := guarded[name]; ok {
			return refuse("%s (pid %d) is in it", what, pid)
		}
	}
	return nil
}

// program returns the base name of a process's executable, or "" for one that
// has ended. Where the link can't be read the kernel's name for the process
// stands in (proc(5), comm).
func (r *Resolver) program(pid int) (string, error) {
	dir := filepath.Join(r.proc(), strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err == nil {
		// An executable that was replaced by an upgrade while it runs.
		return filepath.Base(strings.TrimSuffix(exe, " (deleted)")), nil
	}
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(comm), "\n"), nil
}

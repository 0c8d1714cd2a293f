package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// namespace is a network namespace, held open so that it can still be cleaned
// when the process that showed it is gone.
type namespace struct {
	// inode identifies it as long as it exists (/proc/PID/ns/net, namespaces(7)).
	inode uint64
	file  *os.File
}

func (n *namespace) String() string { return fmt.Sprintf("netns %d", n.inode) }

func (n *namespace) fd() int { return int(n.file.Fd()) }

func (n *namespace) close() error { return n.file.Close() }

// openNamespace opens a file such as /proc/PID/ns/net or /run/netns/NAME.
func openNamespace(path string) (*namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &namespace{inode: stat.Ino, file: file}, nil
}

// namespacesOf opens the network namespaces in which the cgroups' processes
// live. A process that ends meanwhile has none.
func namespacesOf(cgroups []fault.Cgroup) ([]*namespace, error) {
	var list []*namespace
	seen := map[uint64]bool{}
	for _, cgroup := range cgroups {
		pids, err := cgroup.Processes()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err), closeAll(list))
		}
		for _, pid := range pids {
			ns, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return nil, errors.Join(err, closeAll(list))
			}
			if seen[ns.inode] {
				_ = ns.close()
				continue
			}
			seen[ns.inode] = true
			list = append(list, ns)
		}
	}
	return list, nil
}

func closeAll(list []*namespace) error {
	var errs []error
	for _, ns := range list {
		errs = append(errs, ns.close())
	}
	return errors.Join(errs...)
}

// findNamespace looks for a namespace by its inode. It returns nil when it is
// nowhere: the kernel removes a namespace that nobody holds, with all that was
// in it.
func findNamespace(inode uint64) (*namespace, error) {
	paths, err := namespacePaths()
	if err != nil {
		return nil, fmt.Errorf("looking for network namespace %d: %w", inode, err)
	}
	for _, path := range paths {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || stat.Ino != inode {
			continue
		}
		ns, err := openNamespace(path)
		if err == nil && ns.inode == inode {
			return ns, nil
		}
		if err == nil {
			_ = ns.close()
		}
	}
	return nil, nil
}

// namespacePaths lists where network namespaces can be opened: with the
// processes, then at the mounts that keep one without any.
func namespacePaths() ([]string, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// mount id, parent, device, root, mount point (proc_pid_mountinfo(5))
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") {
			paths = append(paths, fields[4])
		}
	}
	return paths, nil
}

// eachNamespace calls fn with every network namespace, once, and goes on after
// errors.
func eachNamespace(fn func(*namespace) error) error {
	paths, err := namespacePaths()
	if err != nil {
		return fmt.Errorf("looking for network namespaces: %w", err)
	}
	var errs []error
	seen := map[uint64]bool{}
	for _, path := range paths {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || seen[stat.Ino] {
			continue
		}
		ns, err := openNamespace(path)
		if err != nil {
			continue // its process has just ended
		}
		if !seen[ns.inode] {
			seen[ns.inode] = true
			errs = append(errs, fn(ns))
		}
		_ = ns.close()
	}
	return errors.Join(errs...)
}

// do runs fn inside the namespace, on a thread of its own: one that can't be
// brought back is thrown away.
func (n *namespace) do(fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := openNamespace("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer func() { _ = home.close() }()
		if home.inode != n.inode {
			if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
				runtime.UnlockOSThread()
				result <- fmt.Errorf("entering %s: %w", n, err)
				return
			}
		}
		err = fn()
		if home.inode == n.inode || unix.Setns(home.fd(), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Package netns finds network namespaces, holds them open and works in them.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// Namespace is a network namespace, held open so that it can still be cleaned
// when the process that showed it is gone.
type Namespace struct {
	// Inode identifies it as long as it exists (/proc/PID/ns/net, namespaces(7)).
	Inode uint64
	file  *os.File
}

// String names the namespace by its inode.
func (n *Namespace) String() string { return fmt.Sprintf("netns %d", n.Inode) }

func (n *Namespace) fd() int { return int(n.file.Fd()) }

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Handle opens netlink sockets inside the namespace.
func (n *Namespace) Handle() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink in %s: %w", n, err)
	}
	return h, nil
}

// Open opens a file such as /proc/PID/ns/net or /run/netns/NAME.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &Namespace{Inode: stat.Ino, file: file}, nil
}

// Of opens the network namespaces in which the cgroups' processes
// live. A process that ends meanwhile has none.
func Of(cgroups []fault.Cgroup) ([]*Namespace, error) {
	var list []*Namespace
	seen := map[uint64]bool{}
	for _, cgroup := range cgroups {
		pids, err := cgroup.Processes()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listing the processes of %s: %w", cgroup.Path, err), CloseAll(list))
		}
		for _, pid := range pids {
			ns, err := Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return nil, errors.Join(err, CloseAll(list))
			}
			if seen[ns.Inode] {
				_ = ns.Close()
				continue
			}
			seen[ns.Inode] = true
			list = append(list, ns)
		}
	}
	return list, nil
}

// CloseAll lets go of all of them.
func CloseAll(list []*Namespace) error {
	var errs []error
	for _, ns := range list {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}

// Find looks for a namespace by its inode. It returns nil when it is
// nowhere: the kernel removes a namespace that nobody holds, with all that was
// in it.
func Find(inode uint64) (*Namespace, error) {
	for path, err := range namespacePaths() {
		if err != nil {
			return nil, fmt.Errorf("looking for network namespace %d: %w", inode, err)
		}
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || stat.Ino != inode {
			continue
		}
		ns, err := Open(path)
		if err == nil && ns.Inode == inode {
			return ns, nil
		}
		if err == nil {
			_ = ns.Close()
		}
	}
	return nil, nil
}

// namespacePaths gives the places where network namespaces can be opened: the
// mounts that keep one without any process, then the processes.
func namespacePaths() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			yield("", err)
			return
		}
		for line := range strings.Lines(string(mounts)) {
			// mount id, parent, device, root, mount point (proc_pid_mountinfo(5))
			fields := strings.Fields(line)
			if len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") && !yield(fields[4], nil) {
				return
			}
		}
		pids, err := processes()
		if err != nil {
			yield("", err)
			return
		}
		for _, pid := range pids {
			if !yield(fmt.Sprintf("/proc/%d/ns/net", pid), nil) {
				return
			}
		}
	}
}

// Each calls fn with every network namespace, once, and goes on after
// errors.
func Each(fn func(*Namespace) error) error {
	var errs []error
	seen := map[uint64]bool{}
	for path, err := range namespacePaths() {
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("looking for network namespaces: %w", err))...)
		}
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || seen[stat.Ino] {
			continue
		}
		ns, err := Open(path)
		if err != nil {
			continue // its process has just ended
		}
		if !seen[ns.Inode] {
			seen[ns.Inode] = true
			errs = append(errs, fn(ns))
		}
		_ = ns.Close()
	}
	return errors.Join(errs...)
}

// Do runs fn inside the namespace, on a thread of its own: one that can't be
// brought back is thrown away.
func (n *Namespace) Do(fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer func() { _ = home.Close() }()
		if home.Inode != n.Inode {
			if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
				runtime.UnlockOSThread()
				result <- fmt.Errorf("entering %s: %w", n, err)
				return
			}
		}
		err = fn()
		if home.Inode == n.Inode || unix.Setns(home.fd(), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

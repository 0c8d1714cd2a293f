package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a hook on a cgroup does can only be seen from a process in that cgroup.
// A single thread can't be moved to another domain of cgroup v2 and moving this
// process is out of the question, so a child is forked that never runs Go again:
// it joins the cgroup, makes a socket, connects and sends, leaves the errors in
// shared memory and exits.

// outcome holds what the child's calls answered, 0 or an errno.
type outcome struct {
	join, socket, connect, send unix.Errno
}

// sharedOutcome is outcome as the child writes it. begun and done tell a child
// that died half way.
type sharedOutcome struct {
	begun, done                 uintptr
	join, socket, connect, send uintptr
}

// workload is what the child needs, all prepared before the fork.
type workload struct {
	procs  uintptr // descriptor of cgroup.procs
	zero   unsafe.Pointer
	addr   unsafe.Pointer
	result *sharedOutcome
}

// runIn forks the child into the cgroup and waits for it. It must be called on a
// locked thread inside the network namespace in which the child shall send.
func runIn(dir string) (outcome, error) {
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return outcome{}, atStage(stageSetup, fmt.Errorf("opening the probe cgroup: %w", err))
	}
	defer procs.Close()
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return outcome{}, atStage(stageSetup, fmt.Errorf("sharing memory with the probe's child: %w", err))
	}
	defer func() { _ = unix.Munmap(page) }()

	to := loopback()
	addr := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr}
	port := (*[2]byte)(unsafe.Pointer(&addr.Port))
	port[0], port[1] = byte(to.Port>>8), byte(to.Port)
	zero := [1]byte{'0'}
	w := &workload{
		procs: procs.Fd(), zero: unsafe.Pointer(&zero[0]), addr: unsafe.Pointer(&addr),
		result: (*sharedOutcome)(unsafe.Pointer(&page[0])),
	}

	// No signal may reach Go's handlers in the child, where no Go runs.
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return outcome{}, atStage(stageSetup, fmt.Errorf("blocking signals: %w", err))
	}
	pid, errno := fork(w)
	merr := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	if errno != 0 {
		return outcome{}, atStage(stageSetup, fmt.Errorf("forking the probe's child: %w", errno))
	}
	var status unix.WaitStatus
	for {
		// The child has no exit signal, so that a reaper of this process does not
		// take it for its own; such children are waited for with __WALL.
		_, err = unix.Wait4(int(pid), &status, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	runtime.KeepAlive(&zero)
	runtime.KeepAlive(&addr)
	if err != nil {
		return outcome{}, atStage(stageSetup, fmt.Errorf("waiting for the probe's child: %w", err))
	}
	if merr != nil {
		return outcome{}, atStage(stageSetup, fmt.Errorf("restoring signals: %w", merr))
	}
	if w.result.done == 0 {
		return outcome{}, unknownBecause(fmt.Sprintf("the probe's child ended early (status %#x)", uint32(status)), "")
	}
	r := w.result
	if r.join != 0 {
		return outcome{}, atStage(stageSetup, fmt.Errorf("joining the probe cgroup: %w", unix.Errno(r.join)))
	}
	return outcome{unix.Errno(r.join), unix.Errno(r.socket), unix.Errno(r.connect), unix.Errno(r.send)}, nil
}

// fork clones this thread into a process with a copy of the memory (fork(2)) and
// does the child's work there: system calls and nothing else, since the child
// has one thread and whatever locks the others held.
//
//go:norace
//go:nosplit
//go:noinline
func fork(w *workload) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, 0, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	r := w.result
	r.begun = 1
	_, _, errno = unix.RawSyscall6(unix.SYS_WRITE, w.procs, uintptr(w.zero), 1, 0, 0, 0)
	r.join = uintptr(errno)
	if errno == 0 {
		fd, _, errno := unix.RawSyscall6(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0, 0, 0, 0)
		r.socket = uintptr(errno)
		if errno == 0 {
			_, _, errno = unix.RawSyscall6(unix.SYS_CONNECT, fd, uintptr(w.addr), unix.SizeofSockaddrInet4, 0, 0, 0)
			r.connect = uintptr(errno)
			_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(w.zero), 1, 0, uintptr(w.addr), unix.SizeofSockaddrInet4)
			r.send = uintptr(errno)
		}
	}
	r.done = 1
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// Exit statuses of a shell for a command that it can't start.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// drainTime is how long output is still awaited from processes that were killed
// after the command ended. It only passes if one of them hangs in the kernel.
const drainTime = 5 * time.Second

// runCommand runs the command in a cgroup and sends its output and status. When
// the command ends, what it left running is killed: nobody is there to use it.
func runCommand(port io.ReadWriter, config wire.Config, cgroup *os.File) error {
	if err := setLimits(); err != nil {
		return err
	}
	return relay(port, config, &syscall.SysProcAttr{
		Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}, func(pid int) int {
		status := reap(pid)
		// -1 is every process but this one and the kernel's threads.
		_ = unix.Kill(-1, unix.SIGKILL)
		go reapAll()
		return status
	})
}

// relay starts the command, sends its output, and its status last. wait waits
// for the command and returns its exit status.
func relay(port io.ReadWriter, config wire.Config, attributes *syscall.SysProcAttr, wait func(pid int) int) error {
	out := wire.NewWriter(port)
	go answerDumps(port, out)
	if err := out.Send(wire.Started, []byte(release())); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	files := []*os.File{null}
	var copies sync.WaitGroup
	for _, kind := range []wire.Kind{wire.Stdout, wire.Stderr} {
		// Pipes and not the port itself, which only one process may have open.
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		files = append(files, w)
		copies.Go(func() { _, _ = io.Copy(out.Stream(kind), r) })
	}
	pid, status, err := start(config, files, attributes)
	if err != nil {
		fmt.Fprintf(files[2], "%s: %v\n", config.Command[0], err)
	}
	for _, f := range files {
		f.Close()
	}
	if err == nil {
		status = wait(pid)
	}
	drained := make(chan struct{})
	go func() { copies.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainTime):
	}
	// What was written to the working tree through mappings goes out now.
	unix.Sync()
	return out.Send(wire.Exit, []byte{byte(status)})
}

// start starts the command and returns its process id, or an error with the
// exit status that a shell would give for it.
func start(config wire.Config, files []*os.File, attributes *syscall.SysProcAttr) (pid, status int, err error) {
	// LookPath goes by this process's own folder and PATH.
	if err := os.Chdir(config.Dir); err != nil {
		return 0, exitNotFound, err
	}
	os.Clearenv()
	for _, entry := range config.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return 0, exitNotExecutable, err
		}
	}
	program, err := exec.LookPath(config.Command[0])
	if err != nil {
		var lookup *exec.Error
		if errors.As(err, &lookup) {
			err = lookup.Err
		}
		if errors.Is(err, os.ErrPermission) {
			return 0, exitNotExecutable, err
		}
		return 0, exitNotFound, err
	}
	process, err := os.StartProcess(program, config.Command, &os.ProcAttr{
		Dir: config.Dir, Env: os.Environ(), Files: files, Sys: attributes,
	})
	if err != nil {
		return 0, exitNotExecutable, err
	}
	return process.Pid, 0, nil
}

// reap waits for a child, and meanwhile for the orphans that the first process
// inherits. It returns the child's exit status.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		if got, err := unix.Wait4(-1, &status, 0, nil); err == nil && got == pid {
			return exitStatus(status)
		}
	}
}

// exitStatus is what a shell gives: 128 and the signal for a process that was
// killed.
func exitStatus(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func reapAll() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return
		}
	}
}

// setLimits gives the command the limits that systemd gives a service.
func setLimits() error {
	// Through syscall and not unix: the Go runtime would else put the old soft
	// limit back for children.
	limit := syscall.Rlimit{Cur: 1024, Max: 524288}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setting the limit of open files: %w", err)
	}
	return nil
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

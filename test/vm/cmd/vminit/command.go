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
func runCommand(out *wire.Writer, config wire.Config, cgroup *os.File) error {
	if err := out.Send(wire.Started, []byte(release())); err != nil {
		return err
	}
	if err := setLimits(); err != nil {
		return err
	}
	var copies sync.WaitGroup
	files := make([]*os.File, 3)
	var err error
	if files[0], err = os.Open(os.DevNull); err != nil {
		return err
	}
	for i, kind := range []wire.Kind{wire.Stdout, wire.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		files[i+1] = w
		copies.Go(func() { _, _ = io.Copy(out.Stream(kind), r) })
	}
	status, err := start(config, files, cgroup)
	if err != nil {
		fmt.Fprintf(files[2], "%s: %v\n", config.Command[0], err)
	}
	for _, f := range files {
		f.Close()
	}
	if err == nil {
		status = reap(status)
	}
	// -1 is every process but this one and the kernel's threads.
	_ = unix.Kill(-1, unix.SIGKILL)
	go reapAll()
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

// start starts the command and returns its process id, or the exit status that
// a shell would give with the error.
func start(config wire.Config, files []*os.File, cgroup *os.File) (int, error) {
	if err := os.Chdir(config.Dir); err != nil {
		return exitNotFound, err
	}
	os.Clearenv()
	for _, entry := range config.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return exitNotExecutable, err
		}
	}
	program, err := exec.LookPath(config.Command[0])
	if err != nil {
		var lookup *exec.Error
		if errors.As(err, &lookup) {
			err = lookup.Err
		}
		if errors.Is(err, os.ErrPermission) {
			return exitNotExecutable, err
		}
		return exitNotFound, err
	}
	process, err := os.StartProcess(program, config.Command, &os.ProcAttr{
		Dir:   config.Dir,
		Env:   config.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())},
	})
	if err != nil {
		return exitNotExecutable, err
	}
	return process.Pid, nil
}

// reap waits for a child, and meanwhile for the orphans that the first process
// inherits. It returns the exit status as a shell does: 128 and the signal for a
// child that was killed.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil || got != pid {
			continue
		}
		if status.Signaled() {
			return 128 + int(status.Signal())
		}
		return status.ExitStatus()
	}
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

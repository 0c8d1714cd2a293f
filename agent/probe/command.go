package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

const (
	// maxStderr is how much of a command's standard error is kept, its end.
	maxStderr = 512
	// pipeDelay is how long a pipe may stay open after the command and its
	// process group have ended: a child that left the group holds it.
	pipeDelay = time.Second
)

func newCommand(c *v1.CommandProbe) (func(context.Context) error, error) {
	argv := c.GetCommand()
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("command.command is empty: wanted a program and its arguments")
	}
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return nil, errors.New("command.command: an argument holds a NUL byte")
		}
	}
	want := int(c.GetExitCode())
	if want < 0 || want > 255 {
		return nil, fmt.Errorf("command.exitCode is %d: wanted 0 to 255", want)
	}
	return func(ctx context.Context) error { return runCommand(ctx, argv, want) }, nil
}

// runCommand runs a program in a process group of its own. When the program or
// ctx ends the whole group is killed, and when this process is killed so is the
// program, so that nothing of a probe stays behind.
func runCommand(ctx context.Context, argv []string, want int) error {
	// The kernel takes the end of the thread that made it for that of the
	// process (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	what := "command " + argv[0]
	expected := fmt.Sprintf("exit status %d", want)
	var stderr tail
	var group processGroup
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &stderr
	cmd.WaitDelay = pipeDelay
	cmd.Cancel = group.kill

	// The group is locked until its number is known: ctx may end at once.
	group.mu.Lock()
	err := cmd.Start()
	if err != nil {
		group.mu.Unlock()
		if ctx.Err() != nil {
			return &lateError{what, expected, ctx.Err()}
		}
		return fmt.Errorf("%s: expected %s, got: %w", what, expected, err)
	}
	group.id = cmd.Process.Pid
	group.mu.Unlock()

	group.wait()
	err = cmd.Wait()
	if ctx.Err() != nil {
		return &lateError{what, expected, ctx.Err()}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: waiting for it: %w", what, err)
	}
	if cmd.ProcessState.ExitCode() == want {
		return nil
	}
	got := cmd.ProcessState.String() // "exit status 3", "signal: killed"
	if s := stderr.String(); s != "" {
		return fmt.Errorf("%s: expected %s, got %s: %s", what, expected, got, s)
	}
	return fmt.Errorf("%s: expected %s, got %s", what, expected, got)
}

// processGroup is a group whose leader is our child. As long as the child is
// not reaped its number can't be given to another group.
type processGroup struct {
	mu   sync.Mutex
	id   int
	done bool
}

// kill ends every process of the group.
func (g *processGroup) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done {
		return os.ErrProcessDone
	}
	if err := unix.Kill(-g.id, unix.SIGKILL); err != nil {
		return os.ErrProcessDone
	}
	return nil
}

// wait waits for the end of the leader without reaping it, then kills what is
// left of the group.
func (g *processGroup) wait() {
	for {
		err := unix.Waitid(unix.P_PID, g.id, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = g.kill()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - maxStderr; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return oneLine(strings.ToValidUTF8(string(t.buf), "?"))
}

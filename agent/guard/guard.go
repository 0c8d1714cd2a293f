// Package guard is the dead man's switch of a run: a process of its own that
// takes back what the run's process can't any more, because it was killed or
// is frozen. The kernel ends what hangs on descriptors and leases; the guard
// is for what has neither, such as a limit in a cgroup's file.
//
// The run's process tells its guard through a pipe until when each fault may
// go on. When the pipe ends without a farewell the process has died, and the
// guard reverts the run from its journal; when a lease runs out the process is
// frozen, and the guard undoes what that fault has open.
package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"faultline.dev/faultline/faults/fault"
)

const (
	// readyWord is what a guard says when it watches.
	readyWord = "ready"
	// doneWord is the farewell: nothing is left to be taken back.
	doneWord = "done"
	// leaseWord comes before a deadline of CLOCK_BOOTTIME (ns, 0 for none)
	// and the name of a fault.
	leaseWord = "lease"

	// startTimeout is how long a guard may take to be ready.
	startTimeout = 30 * time.Second
	// endTimeout is how long a guard may take to end.
	endTimeout = 5 * time.Second
)

// ErrNoGuard means that nothing watches over the run, so that nothing may be touched that
// would outlive its process.
var ErrNoGuard = errors.New("no guard")

// Guard is the run's side of its guard. It is safe for concurrent use.
type Guard struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu sync.Mutex
	in io.WriteCloser
}

// Start starts cmd, which must call [Serve], and returns when it watches. It
// gets a session of its own, so that what a terminal sends to the run does not
// reach it. Errors match [ErrNoGuard].
func Start(cmd *exec.Cmd) (*Guard, error) {
	g := &Guard{cmd: cmd, ended: make(chan struct{})}
	if err := g.start(); err != nil {
		return nil, fmt.Errorf("%w: starting the process that takes everything back when this one dies: %w", ErrNoGuard, err)
	}
	return g, nil
}

func (g *Guard) start() error {
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var err error
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	line := make(chan string, 1)
	go func() {
		defer close(g.ended)
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- strings.TrimSpace(text)
		_ = g.cmd.Wait()
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case text := <-line:
		if text == readyWord {
			return nil
		}
		err = fmt.Errorf("it said %q", text)
	case <-timeout.C:
		err = fmt.Errorf("it was not ready after %s", startTimeout)
	}
	_ = g.cmd.Process.Kill()
	<-g.ended
	return err
}

// Lease says until when a fault may go on without another word; the zero lease
// that it has ended. An error means that the guard is dead.
func (g *Guard) Lease(faultName string, lease fault.Lease) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := fmt.Fprintf(g.in, "%s %d %s\n", leaseWord, lease.Deadline, faultName); err != nil {
		return fmt.Errorf("%w: telling the guard of a lease: %w", ErrNoGuard, err)
	}
	return nil
}

// Ended is closed when the guard's process has ended.
func (g *Guard) Ended() <-chan struct{} { return g.ended }

// Dismiss ends the guard when nothing is left for it to do, or what is left is
// in a journal that this process has let go of.
func (g *Guard) Dismiss() {
	g.mu.Lock()
	// A guard that is dead already reads nothing.
	_, _ = fmt.Fprintln(g.in, doneWord)
	_ = g.in.Close()
	g.mu.Unlock()
	timeout := time.NewTimer(endTimeout)
	defer timeout.Stop()
	select {
	case <-g.ended:
	case <-timeout.C:
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

package sleeper

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// process is one of ours, which lives as long as its input is open.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}
}

// start starts a process, and returns when ready does.
func start(cmd *exec.Cmd, ready func(in io.Writer, out io.Reader) error) (*process, error) {
	// What a terminal sends to the run is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	isReady := make(chan error, 1)
	go func() {
		defer close(p.ended)
		isReady <- ready(p.in, out)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case err = <-isReady:
	case <-timeout.C:
		err = errors.New("it is not ready")
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("starting %s: %w (%s)", cmd.Args[0], err, cmd.ProcessState)
	}
	return p, nil
}

// kill ends it at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	_ = p.in.Close()
}

//go:build linux

package env

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
)

// workloadVariable tells a test binary to be a workload.
const workloadVariable = "FAULTLINE_TEST_WORKLOAD"

// Workload is something that a test binary does in a process of its own, in a
// cgroup and a network namespace. It prints JSON values to out, one a line.
type Workload func(in io.Reader, out *json.Encoder, args []string) error

// Main runs the tests, or the workload that Start asked for. Call it from
// TestMain.
func Main(m *testing.M, workloads map[string]Workload) {
	name := os.Getenv(workloadVariable)
	if name == "" {
		status := m.Run()
		if compiledIn != "" {
			_ = os.RemoveAll(compiledIn)
		}
		os.Exit(status)
	}
	err := workloads[name](os.Stdin, json.NewEncoder(os.Stdout), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Threads is a workload that prints the ids of its threads, of which a Go program has
// several, and waits.
func Threads(in io.Reader, out *json.Encoder, _ []string) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var tids []int
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		tids = append(tids, tid)
	}
	if err := out.Encode(tids); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// Process is a program in a cgroup and a namespace.
type Process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors strings.Builder
}

// Start runs a workload of this test binary. ns may be nil: the test's own.
func Start(t testing.TB, cgroup fault.Cgroup, ns *Namespace, workload string, args ...string) *Process {
	t.Helper()
	return start(t, cgroup, ns, []string{workloadVariable + "=" + workload}, "/proc/self/exe", args...)
}

// Again is the command of a workload in a process that the test does not own.
func Again(workload string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), workloadVariable+"="+workload)
	cmd.Stderr = os.Stderr
	return cmd
}

// StartProgram runs a program.
func StartProgram(t testing.TB, cgroup fault.Cgroup, ns *Namespace, name string, args ...string) *Process {
	t.Helper()
	return start(t, cgroup, ns, nil, name, args...)
}

// Burn runs a program that uses up a CPU, until it is killed or its parent is gone:
// a test that was killed must not leave that behind.
func Burn(t testing.TB, cgroup fault.Cgroup) *Process {
	t.Helper()
	return StartProgram(t, cgroup, nil, "sh", "-c", "while kill -0 $PPID; do :; done 2>/dev/null")
}

func start(t testing.TB, cgroup fault.Cgroup, ns *Namespace, environment []string, name string, args ...string) *Process {
	t.Helper()
	dir, err := os.Open(cgroup.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	p := &Process{t: t, name: name, cmd: exec.Command(name, args...)}
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stderr = &p.errors
	// What it has started may live on and hold the pipe.
	p.cmd.WaitDelay = 10 * time.Millisecond
	// The process is born inside the cgroup, so that none of its sockets is
	// older than that.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if ns == nil {
		err = p.cmd.Start()
	} else {
		ns.Do(p.cmd.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Read takes the next JSON value that the process prints.
func (p *Process) Read(value any) {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s ended: %v\n%s", p.name, err, p.errors.String())
	}
	if err := json.Unmarshal([]byte(line), value); err != nil {
		p.t.Fatalf("%s printed %q: %v", p.name, line, err)
	}
}

// Line takes the next line that the process prints.
func (p *Process) Line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s ended: %v\n%s", p.name, err, p.errors.String())
	}
	return strings.TrimSuffix(line, "\n")
}

// Tell writes a line to the process.
func (p *Process) Tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("telling %s: %v\n%s", p.name, err, p.errors.String())
	}
}

// Wait waits for the end of the process, which must be a good one, and returns
// the rest of its output.
func (p *Process) Wait() string {
	p.t.Helper()
	_ = p.in.Close()
	rest, err := io.ReadAll(p.out)
	if err := errors.Join(err, p.end()); err != nil {
		p.t.Fatalf("%s: %v\n%s%s", p.name, err, rest, p.errors.String())
	}
	return string(rest)
}

// end waits for the end of the process alone. On a busy machine its last message may
// come too late, and is lost; that does not make a good end a bad one.
func (p *Process) end() error {
	if err := p.cmd.Wait(); !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return nil
}

// Status waits for the end of the process, good or bad, drops the rest of its
// output and returns its exit status.
func (p *Process) Status() int {
	p.t.Helper()
	_ = p.in.Close()
	_, err := io.Copy(io.Discard, p.out)
	var exit *exec.ExitError
	if ended := p.end(); err != nil || ended != nil && !errors.As(ended, &exit) {
		p.t.Fatalf("%s: %v", p.name, errors.Join(err, ended))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends the process, if it still runs.
func (p *Process) Kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

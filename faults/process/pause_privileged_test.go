//go:build linux && privileged

package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/process"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) { env.Main(m, map[string]env.Workload{"threads": env.Threads}) }

func pause() *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_ProcessPause{ProcessPause: &v1.ProcessPause{}}}
}

// newTarget makes a cgroup that can be frozen.
func newTarget(t *testing.T) fault.Cgroup {
	t.Helper()
	prober := env.Prober(t)
	if answer := prober.Probe(t.Context(), kernel.CgroupFreeze); !answer.OK() {
		kernels.Missing(t, string(kernel.CgroupFreeze), errors.New(answer.Reason))
	}
	return env.Cgroup(t)
}

// echo has n lines answered by cat.
func echo(t *testing.T, cat *env.Process, n int) {
	t.Helper()
	for i := range n {
		want := fmt.Sprint("line ", i)
		cat.Tell(want)
		if got := cat.Line(); got != want {
			t.Errorf("%q was answered with %q", want, got)
		}
	}
}

func TestPausedProcessesStandStillAndGoOn(t *testing.T) {
	target, neighbour := newTarget(t), env.Cgroup(t)
	child := env.Child(t, target, "child")
	paused, other := env.StartProgram(t, child, nil, "cat"), env.StartProgram(t, neighbour, nil, "cat")
	env.Burn(t, target)
	env.Start(t, target, nil, "threads").Line()
	echo(t, paused, 3)

	i := env.Inject(t, process.Pause(), pause(), nil, target)
	if c := i.Count(); c != (fault.Counters{Matched: 3, Injected: 3}) {
		t.Errorf("counters %+v", c)
	}
	answer := make(chan string, 1)
	paused.Tell("hello")
	go func() { answer <- paused.Line() }()
	// A process counts as frozen a moment before it leaves its processor.
	if err := env.Within(10*time.Second, func() error {
		used := env.ReadStat(t, target, "cpu.stat", "usage_usec")
		echo(t, other, 200)
		if now := env.ReadStat(t, target, "cpu.stat", "usage_usec"); now != used {
			return fmt.Errorf("paused processes used %d us", now-used)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	select {
	case line := <-answer:
		t.Fatalf("a paused process answered %q", line)
	default:
	}
	if err := i.Refresh(t.Context()); err != nil {
		t.Error(err)
	}

	i.End()
	if line := <-answer; line != "hello" {
		t.Errorf("answered %q", line)
	}
	echo(t, paused, 3)
	if got := env.ReadFile(t, target, "cgroup.freeze"); got != "0" {
		t.Errorf("cgroup.freeze holds %q", got)
	}
	if c := i.Count(); c != (fault.Counters{Matched: 3, Injected: 3}) {
		t.Errorf("counters %+v after the end", c)
	}
}

func TestEmptyCgroupIsPausedAndHitsNothing(t *testing.T) {
	target := newTarget(t)
	i := env.Inject(t, process.Pause(), pause(), nil, target)
	if c := i.Count(); c != (fault.Counters{}) {
		t.Errorf("counters %+v", c)
	}
	// It is moved there: a child that is born there stops before it is the
	// program, and its parent waits for that (vfork(2)).
	p := env.StartProgram(t, env.Cgroup(t), nil, "cat")
	env.WriteFile(t, target, "cgroup.procs", fmt.Sprint(p.PID()))
	if err := env.Within(10*time.Second, func() error {
		if c := i.Count(); c != (fault.Counters{Matched: 1, Injected: 1}) {
			return fmt.Errorf("counters %+v of a process that came later", c)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	i.End()
	echo(t, p, 1)
}

// A process that waits for a file system that never answers can't be stopped.
func TestUninterruptibleSleeperIsMissed(t *testing.T) {
	target := newTarget(t)
	prober := env.Prober(t)
	if answer := prober.Probe(t.Context(), kernel.FUSE); !answer.OK() {
		kernels.Missing(t, string(kernel.FUSE), errors.New(answer.Reason))
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() { _ = unix.Close(device) })
	t.Cleanup(release)
	mount := t.TempDir()
	// Nobody answers the first request, for which all others wait.
	if err := unix.Mount("faultline-test", mount, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	sleeper := env.StartProgram(t, target, nil, "stat", mount+"/x")
	env.StartProgram(t, target, nil, "cat")
	if err := env.Within(10*time.Second, func() error {
		// Where it sleeps, proc_pid_stack(5): it may do so before, too, while its
		// program is read.
		place, err := os.ReadFile(fmt.Sprintf("/proc/%d/stack", sleeper.PID()))
		if err == nil && !strings.Contains(string(place), "fuse") {
			err = fmt.Errorf("it sleeps in %s", place)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	plan, err := env.Plan(t, process.Pause(), pause(), nil, target)
	if err != nil {
		t.Fatal(err)
	}
	recorder := &env.Recorder{}
	injection, err := plan.Inject(t.Context(), recorder)
	if err != nil {
		t.Fatal(err)
	}
	// Half of the lease is waited for it.
	if err := injection.Start(fault.Lease{Deadline: fault.BootTime() + uint64(400*time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	if c, err := injection.Counters(); err != nil || c != (fault.Counters{Matched: 2, Injected: 1, Missed: 1}) {
		t.Errorf("counters %+v, %v", c, err)
	}
	release()
	if err := env.Within(10*time.Second, func() error {
		if c, err := injection.Counters(); err != nil || c != (fault.Counters{Matched: 2, Injected: 2}) {
			return fmt.Errorf("counters %+v when it was awake, %w", c, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := injection.Revert(context.Background()); err != nil || len(recorder.Open()) > 0 {
		t.Errorf("reverting: %v, open %v", err, recorder.Open())
	}
	sleeper.Status()
}

func TestFrozenCgroupIsRefused(t *testing.T) {
	parent := newTarget(t)
	target := env.Child(t, parent, "target")
	p := env.StartProgram(t, target, nil, "cat")
	env.WriteFile(t, parent, "cgroup.freeze", "1")
	if err := env.Within(10*time.Second, func() error {
		if env.ReadStat(t, parent, "cgroup.events", "frozen") != 1 {
			return errors.New("not frozen")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []fault.Cgroup{parent, target} {
		if _, err := env.Plan(t, process.Pause(), pause(), nil, c); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "frozen already") {
			t.Errorf("%s: %v", c.Path, err)
		}
	}
	env.WriteFile(t, parent, "cgroup.freeze", "0")
	echo(t, p, 1)
}

func TestSomebodyElseThaws(t *testing.T) {
	target := newTarget(t)
	p := env.StartProgram(t, target, nil, "cat")
	i := env.Inject(t, process.Pause(), pause(), nil, target)
	env.WriteFile(t, target, "cgroup.freeze", "0")
	echo(t, p, 1)
	if err := i.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody else has taken the fault back") {
		t.Errorf("error %v", err)
	}
	i.End()
	if c := i.Count(); c != (fault.Counters{Matched: 1, Injected: 1}) {
		t.Errorf("counters %+v", c)
	}
}

func TestWhatIsNotBuiltIsRefused(t *testing.T) {
	target := newTarget(t)
	spec := pause()
	spec.Mechanism = "pidfd"
	if _, err := env.Plan(t, process.Pause(), spec, nil, target); !errors.Is(err, fault.ErrNotBuilt) {
		t.Errorf("error %v", err)
	}
}

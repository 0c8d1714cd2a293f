//go:build linux && privileged

package trace_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/agent/trace"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) { env.Main(m, nil) }

// run traces while fn runs.
func run(t *testing.T, o trace.Options, fn func()) *v1.Trace {
	t.Helper()
	over, stop := context.WithCancel(t.Context())
	stop()
	if _, err := trace.Run(over, o); errors.Is(err, fault.ErrUnavailable) {
		kernels.Missing(t, string(kernel.TracingPermission), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	o.Progress = func(uint64) {
		select {
		case <-begun:
		default:
			close(begun)
		}
	}
	var result *v1.Trace
	done := make(chan error)
	go func() {
		var err error
		result, err = trace.Run(ctx, o)
		done <- err
	}()
	select {
	case <-begun:
	case err := <-done:
		t.Fatalf("it has ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("it has not begun")
	}
	fn()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return result
}

func find(t *testing.T, result *v1.Trace, call string) *v1.CallCount {
	t.Helper()
	for _, c := range result.GetCalls() {
		if c.GetCall() == call && !c.GetCompat() {
			return c
		}
	}
	t.Fatalf("%s was not counted: %v", call, result)
	return nil
}

// Each call of the target is counted, by its result, and nobody else's.
func TestCallsAreCountedByTheirResults(t *testing.T) {
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	inside, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
	const times, threads = 500, 4
	closing := env.Order{Number: unix.SYS_CLOSE, Arguments: []int64{-1}, Times: times, Threads: threads}
	// Of a pipe; and where it is counted from is no place.
	seeking := env.Order{Number: unix.SYS_LSEEK, Arguments: []int64{0, 0, 0}, Times: times}
	asking := env.Order{Number: unix.SYS_GETPPID, Times: times}
	result := run(t, trace.Options{Cgroups: []fault.Cgroup{target}}, func() {
		outside.Begin(closing)
		inside.Do(closing)
		inside.Do(seeking)
		inside.Do(asking)
		outside.End()
	})
	if c := find(t, result, "close"); c.GetCount() != times*threads || c.GetFailed() != times*threads || len(c.GetErrnos()) != 1 || c.GetErrnos()[0].GetErrno() != "EBADF" {
		t.Errorf("close: %v", c)
	}
	if c := find(t, result, "lseek"); c.GetCount() != times || c.GetErrnos()[0].GetErrno() != "ESPIPE" {
		t.Errorf("lseek: %v", c)
	}
	if c := find(t, result, "getppid"); c.GetCount() != times || c.GetFailed() != 0 {
		t.Errorf("getppid: %v", c)
	}
	if result.GetCalls()[0].GetCall() != "close" || result.GetUncounted() != 0 || result.GetTotal() < times*(threads+2) {
		t.Errorf("%v", result)
	}
}

func TestPathsAndChosenCalls(t *testing.T) {
	target := env.Cgroup(t)
	dir := t.TempDir()
	result := run(t, trace.Options{Cgroups: []fault.Cgroup{target}, Calls: []string{"openat"}, Paths: true}, func() {
		for range 3 {
			env.StartProgram(t, target, nil, "cat", dir+"/nothing").Status()
		}
	})
	for _, c := range result.GetCalls() {
		if c.GetCall() != "openat" {
			t.Errorf("%s was not asked for", c.GetCall())
		}
	}
	for _, p := range result.GetPaths() {
		if p.GetPath() == dir+"/nothing" {
			if p.GetCall() != "openat" || p.GetCount() != 3 || p.GetFailed() != 3 {
				t.Errorf("%v", p)
			}
			return
		}
	}
	t.Errorf("the path was not seen: %v", result.GetPaths())
}

func TestUnknownCallIsRefused(t *testing.T) {
	if err := (trace.Options{Calls: []string{"openat", "opnat"}}).Validate(); err == nil {
		t.Error("opnat is a call")
	}
}

//go:build linux && privileged

package syscall_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// late is a fault in which files are opened later.
func late(mechanism string, delay time.Duration) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_SyscallDelay{SyscallDelay: &v1.SyscallDelay{Calls: []string{"openat"}, Delay: durationpb.New(delay)}},
	}
}

func forever(mechanism string) *v1.Fault {
	spec := late(mechanism, 0)
	spec.GetSyscallDelay().Delay = units.Forever()
	return spec
}

// opening opens a file, again and again.
func opening(threads, times int) env.Order {
	return env.Order{
		Number: unix.SYS_OPENAT, Arguments: []int64{unix.AT_FDCWD, 0, unix.O_RDONLY}, Texts: map[int]string{1: "/dev/null"},
		Threads: threads, Times: times,
	}
}

func eachDelay(t *testing.T, test func(t *testing.T, mechanism string)) {
	t.Helper()
	env.EachMechanism(t, syscall.Delay(), test)
}

func delayed(t *testing.T, spec *v1.Fault, target fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, syscall.Delay(), spec, nil, target)
}

// awaitHits waits until so many calls are late, or were.
func awaitHits(t *testing.T, i *env.Injected, want uint64) {
	t.Helper()
	if err := env.Within(30*time.Second, func() error {
		if c := i.Count(); c.Injected != want {
			return fmt.Errorf("counters %+v, want %d injected", c, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestCallsAreLate(t *testing.T) {
	eachDelay(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		inside, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		const threads, times, delay = 16, 3, 300 * time.Millisecond
		i := delayed(t, late(mechanism, delay), target)
		begin := time.Now()
		inside.Begin(opening(threads, times))
		// The neighbour is done while they sleep; nobody of them was counted.
		awaitHits(t, i, threads)
		expect(t, "of the neighbour", outside.Do(opening(threads, times)), env.Results{0: threads * times})
		expect(t, "of the target", inside.End(), env.Results{0: threads * times})
		if took := time.Since(begin); took < times*delay {
			t.Errorf("%d calls, one after the other, took %s", times, took)
		}
		expectCounters(t, i, threads*times, threads*times)

		begin = time.Now()
		i.End()
		t.Logf("it ended in %s", time.Since(begin))
		spec := late(mechanism, 300*time.Millisecond)
		spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
		i = delayed(t, spec, target)
		begin = time.Now()
		expect(t, "some of the target", inside.Do(opening(1, 9)), env.Results{0: 9})
		if took := time.Since(begin); took < 3*delay {
			t.Errorf("9 calls, of which 3 are late, took %s", took)
		}
		expectCounters(t, i, 9, 3)
		i.End()

		spec.Observe = true
		i = delayed(t, spec, target)
		expect(t, "observed", inside.Do(opening(1, 9)), env.Results{0: 9})
		expectCounters(t, i, 9, 3)
		i.End()
	})
}

// Each call waits for the time that Go draws too.
func TestDelaysAreThoseOfTheSeed(t *testing.T) {
	eachDelay(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		spec := late(mechanism, 100*time.Millisecond)
		spec.GetSyscallDelay().Jitter = durationpb.New(100 * time.Millisecond)
		i := delayed(t, spec, target)
		delays, err := dice.NewDelay(0, spec.GetSyscallDelay())
		if err != nil {
			t.Fatal(err)
		}
		var state dice.DelayState
		for n := range uint64(10) {
			begin := time.Now()
			expect(t, "opening", caller.Do(opening(1, 1)), env.Results{0: 1})
			want := delays.Draw(n, &state)
			if took := time.Since(begin); took < want {
				t.Errorf("call %d took %s, want %s at least", n, took, want)
			}
		}
		expectCounters(t, i, 10, 10)
		i.End()
	})
}

func TestCallsThatWaitForEverEndWithTheFault(t *testing.T) {
	eachDelay(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		const threads = 16
		for name, end := range map[string]func(*env.Injected){
			"reverted": func(i *env.Injected) { i.End() },
			"lease":    func(i *env.Injected) { lease(t, i, fault.BootTime()+uint64(time.Second)) },
		} {
			t.Run(name, func(t *testing.T) {
				i := delayed(t, forever(mechanism), target)
				caller.Begin(opening(threads, 1))
				awaitHits(t, i, threads)
				begin := time.Now()
				end(i)
				expect(t, "opening", caller.End(), env.Results{0: threads})
				t.Logf("all awake after %s", time.Since(begin))
				expectCounters(t, i, threads, threads)
				i.End()
			})
		}
	})
}

func lease(t *testing.T, i *env.Injected, deadline uint64) {
	t.Helper()
	if err := i.Renew(fault.Lease{Deadline: deadline}); err != nil {
		t.Fatal(err)
	}
}

// Redis answers when what it was told is on the disk: later by the delay.
func TestRedisThatSyncsLate(t *testing.T) {
	const mechanism = "sleepable_fmod_ret"
	prober := env.Prober(t)
	for _, need := range syscall.Delay().Mechanisms[0].Needs {
		if answer := prober.Probe(t.Context(), need); !answer.OK() {
			kernels.Missing(t, string(need), errors.New(answer.Reason))
		}
	}
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	dir := t.TempDir()
	socket := dir + "/socket"
	env.StartProgram(t, target, nil, "redis-server", "--dir", dir, "--port", "0", "--unixsocket", socket,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "")
	const times, delay = 5, 200 * time.Millisecond
	set := func() time.Duration {
		begin := time.Now()
		out := env.StartProgram(t, neighbour, nil, "redis-cli", "-s", socket, "-r", fmt.Sprint(times), "SET", "a", "1").Wait()
		if n := strings.Count(out, "OK"); n != times {
			t.Fatalf("%d of %d are answered: %s", n, times, out)
		}
		return time.Since(begin)
	}
	if err := env.Within(30*time.Second, func() error { _, err := os.Stat(socket); return err }); err != nil {
		t.Fatal(err)
	}
	before := set()
	spec := late(mechanism, delay)
	spec.GetSyscallDelay().Calls = []string{"fsync", "fdatasync"}
	i := delayed(t, spec, target)
	during := set()
	if during < times*delay {
		t.Errorf("%d writes took %s", times, during)
	}
	i.End()
	if c := i.Count(); c.Injected < times || c.Missed != 0 || c.Injected != c.Matched {
		t.Errorf("counters %+v", c)
	}
	t.Logf("before %s, during %s, afterwards %s", before, during, set())
}

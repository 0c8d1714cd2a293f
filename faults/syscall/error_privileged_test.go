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

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// nowhere is an address that nobody has, nothing a descriptor that nobody has.
const (
	nowhere = 8
	nothing = -1
)

// someCalls are calls, and arguments with which they do nothing and return at once
// with the errno that is given, 0 for a success.
var someCalls = []struct {
	name      string
	number    uint32
	arguments []int64
	errno     unix.Errno
}{
	{"read", unix.SYS_READ, []int64{nothing, nowhere, 1}, unix.EBADF},
	{"write", unix.SYS_WRITE, []int64{nothing, nowhere, 1}, unix.EBADF},
	{"close", unix.SYS_CLOSE, []int64{nothing}, unix.EBADF},
	{"fstat", unix.SYS_FSTAT, []int64{nothing, nowhere}, unix.EBADF},
	{"lseek", unix.SYS_LSEEK, []int64{nothing, 0, 0}, unix.EBADF},
	{"mmap", unix.SYS_MMAP, []int64{0, 4096, 1, 2, nothing, 0}, unix.EBADF},
	{"mprotect", unix.SYS_MPROTECT, []int64{1, 1, 0}, unix.EINVAL},
	{"munmap", unix.SYS_MUNMAP, []int64{1, 1}, unix.EINVAL},
	{"ioctl", unix.SYS_IOCTL, []int64{nothing, 0, 0}, unix.EBADF},
	{"pread64", unix.SYS_PREAD64, []int64{nothing, nowhere, 1, 0}, unix.EBADF},
	{"pwrite64", unix.SYS_PWRITE64, []int64{nothing, nowhere, 1, 0}, unix.EBADF},
	{"readv", unix.SYS_READV, []int64{nothing, nowhere, 1}, unix.EBADF},
	{"writev", unix.SYS_WRITEV, []int64{nothing, nowhere, 1}, unix.EBADF},
	{"pipe2", unix.SYS_PIPE2, []int64{nowhere, -1}, unix.EINVAL},
	{"dup3", unix.SYS_DUP3, []int64{0, 0, 0}, unix.EINVAL},
	{"nanosleep", unix.SYS_NANOSLEEP, []int64{nowhere, 0}, unix.EFAULT},
	{"getppid", unix.SYS_GETPPID, nil, 0},
	{"getuid", unix.SYS_GETUID, nil, 0},
	{"sched_yield", unix.SYS_SCHED_YIELD, nil, 0},
	{"sendfile", unix.SYS_SENDFILE, []int64{nothing, nothing, 0, 1}, unix.EBADF},
	{"socket", unix.SYS_SOCKET, []int64{-1, 1, 0}, unix.EAFNOSUPPORT},
	{"connect", unix.SYS_CONNECT, []int64{nothing, nowhere, 16}, unix.EBADF},
	{"accept4", unix.SYS_ACCEPT4, []int64{nothing, 0, 0, 0}, unix.EBADF},
	{"sendto", unix.SYS_SENDTO, []int64{nothing, nowhere, 0, 0, 0, 0}, unix.EBADF},
	{"recvfrom", unix.SYS_RECVFROM, []int64{nothing, nowhere, 0, 0, 0, 0}, unix.EBADF},
	{"bind", unix.SYS_BIND, []int64{nothing, nowhere, 16}, unix.EBADF},
	{"listen", unix.SYS_LISTEN, []int64{nothing, 1}, unix.EBADF},
	{"getsockopt", unix.SYS_GETSOCKOPT, []int64{nothing, 1, 1, nowhere, nowhere}, unix.EBADF},
	{"setsockopt", unix.SYS_SETSOCKOPT, []int64{nothing, 1, 1, nowhere, 4}, unix.EBADF},
	{"kill", unix.SYS_KILL, []int64{1 << 30, 0}, unix.ESRCH},
	{"fcntl", unix.SYS_FCNTL, []int64{nothing, 1, 0}, unix.EBADF},
	{"flock", unix.SYS_FLOCK, []int64{nothing, 1}, unix.EBADF},
	{"fsync", unix.SYS_FSYNC, []int64{nothing}, unix.EBADF},
	{"fdatasync", unix.SYS_FDATASYNC, []int64{nothing}, unix.EBADF},
	{"ftruncate", unix.SYS_FTRUNCATE, []int64{nothing, 0}, unix.EBADF},
	{"openat", unix.SYS_OPENAT, []int64{nothing, nowhere, 0, 0}, unix.EFAULT},
	{"mkdirat", unix.SYS_MKDIRAT, []int64{nothing, nowhere, 0}, unix.EFAULT},
	{"unlinkat", unix.SYS_UNLINKAT, []int64{nothing, nowhere, 0}, unix.EFAULT},
	{"renameat2", unix.SYS_RENAMEAT2, []int64{nothing, nowhere, nothing, nowhere, 0}, unix.EFAULT},
	{"epoll_ctl", unix.SYS_EPOLL_CTL, []int64{nothing, 2, nothing, 0}, unix.EBADF},
	{"epoll_pwait", unix.SYS_EPOLL_PWAIT, []int64{nothing, nowhere, 1, 0, 0, 8}, unix.EBADF},
	{"futex", unix.SYS_FUTEX, []int64{0, 1, 1, 0, 0, 0}, unix.EFAULT},
	{"statx", unix.SYS_STATX, []int64{nothing, nowhere, 0, 0, nowhere}, unix.EFAULT},
	{"getrandom", unix.SYS_GETRANDOM, []int64{nowhere, 1, -1}, unix.EINVAL},
}

func TestEachCallFails(t *testing.T) {
	onlyAMD64(t)
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		inside, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		for n, call := range someCalls {
			// What both mechanisms do after they are called is the same code.
			if mechanism != syscall.Error().Mechanisms[0].Name && n%4 != 0 && os.Getenv("FAULTLINE_ALL_CALLS") == "" {
				continue
			}
			t.Run(call.name, func(t *testing.T) {
				const times = 30
				order := env.Order{Number: call.number, Arguments: call.arguments, Times: times}
				expect(t, "before", inside.Do(order), env.Results{call.errno: times})

				spec := fails(mechanism, call.name)
				spec.GetSyscallError().AllowHang = true
				spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
				if call.name == "read" || call.name == "write" {
					// The program gets its orders and answers so too.
					spec.GetSyscallError().Arguments = arguments("EQUAL -1")
				}
				i := begin(t, spec, target)
				outside.Begin(order)
				expect(t, "of the target", inside.Do(order), env.Results{injected: times / 3, call.errno: times - times/3})
				expect(t, "of the neighbour", outside.End(), env.Results{call.errno: times})
				expectCounters(t, i, times, times/3)
				i.End()
				expect(t, "afterwards", inside.Do(order), env.Results{call.errno: times})
			})
		}
	})
}

// begin skips the test of a call that has no arguments where the kernel describes its
// function only by a name that it does not let programs answer.
func begin(t *testing.T, spec *v1.Fault, target fault.Cgroup) *env.Injected {
	t.Helper()
	plan, err := env.Plan(t, syscall.Error(), spec, nil, target)
	if err != nil && strings.Contains(err.Error(), "__do_sys_") {
		kernels.Missing(t, "calls-without-arguments", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return env.Begin(t, plan)
}

// close is what most tests fail: EBADF otherwise, and the program that calls makes
// none of its own.
func closing(fd int64, times int) env.Order {
	return env.Order{Number: unix.SYS_CLOSE, Arguments: []int64{fd}, Times: times}
}

func TestConditionsOnArguments(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		for _, tt := range []struct {
			name       string
			conditions []*v1.Argument
			hit, not   []int64
		}{
			{"equal", arguments("EQUAL 700"), []int64{700}, []int64{701, -700, 0}},
			{"not equal", arguments("NOT_EQUAL 700"), []int64{701, -1}, []int64{700}},
			{"less", arguments("LESS 700"), []int64{699, -1}, []int64{700, 701}},
			{"greater", arguments("GREATER 700"), []int64{701, 1 << 40}, []int64{700, 0, -1}},
			{"bits", arguments("HAS_BITS 0x300"), []int64{0x300, 0x7301, -1}, []int64{0x100, 0x200, 0}},
			{"negative", arguments("EQUAL -100"), []int64{-100, 0xffffff9c}, []int64{100, 0x1ffffff9c}},
			{"less than nothing", arguments("LESS 0"), []int64{-1, 0xffffffff}, []int64{0, 1, 0x1ffffffff}},
			{"both", arguments("GREATER 10", "LESS 20"), []int64{11, 19}, []int64{10, 20}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				spec := fails(mechanism, "close")
				spec.GetSyscallError().Arguments = tt.conditions
				i := inject(t, spec, target)
				// The descriptors 0 to 2 are the program's own: lseek is as good.
				for _, fd := range tt.hit {
					expect(t, fmt.Sprint(fd), caller.Do(closing(fd, 1)), env.Results{injected: 1})
				}
				expectCounters(t, i, uint64(len(tt.hit)), uint64(len(tt.hit)))
				i.End()
			})
			t.Run(tt.name+", not met", func(t *testing.T) {
				spec := fails(mechanism, "lseek")
				spec.GetSyscallError().Arguments = tt.conditions
				i := inject(t, spec, target)
				for _, fd := range tt.not {
					order := env.Order{Number: unix.SYS_LSEEK, Arguments: []int64{fd, 0, 99}}
					if got := caller.Do(order); got[injected] != 0 {
						t.Errorf("%d was hit", fd)
					}
				}
				expectCounters(t, i, 0, 0)
				i.End()
			})
		}
	})
}

// arguments makes conditions on the first one.
func arguments(texts ...string) (list []*v1.Argument) {
	for _, text := range texts {
		var is string
		var value int64
		if _, err := fmt.Sscanf(text, "%s %v", &is, &value); err != nil {
			panic(err)
		}
		list = append(list, &v1.Argument{Is: v1.Argument_Comparison(v1.Argument_Comparison_value[is]), Value: value})
	}
	return list
}

// The last argument is the one that the kernel takes from another register than
// functions do.
func TestEachArgumentIsFound(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		for index := range uint32(6) {
			spec := fails(mechanism, "mmap")
			spec.GetSyscallError().Arguments = []*v1.Argument{{Index: index, Is: v1.Argument_EQUAL, Value: 0x5000 + int64(index)}}
			i := inject(t, spec, target)
			order := env.Order{Number: unix.SYS_MMAP, Arguments: []int64{0x5000, 0x5001, 0x5002, 0x5003, 0x5004, 0x5005}}
			expect(t, fmt.Sprint("argument ", index), caller.Do(order), env.Results{injected: 1})
			expectCounters(t, i, 1, 1)
			i.End()
		}
	})
}

func TestThreadsAndProcessesOldAndNew(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		old, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		i := inject(t, fails(mechanism, "close"), target)

		const times, threads = 500, 8
		busy := closing(nothing, times)
		busy.Threads = threads
		outside.Begin(busy)
		expect(t, "threads", old.Do(busy), env.Results{injected: times * threads})
		expect(t, "threads of the neighbour", outside.End(), env.Results{unix.EBADF: times * threads})
		forked := closing(nothing, times)
		forked.Fork = true
		expect(t, "a process that was forked", old.Do(forked), env.Results{injected: times})
		// Loading a program closes files, which it may not here; this one is static.
		before := i.Count()
		child := env.Child(t, target, "child")
		young := env.NewCaller(t, child)
		expect(t, "a new process in a new cgroup", young.Do(closing(nothing, times)), env.Results{injected: times})
		outside.Move(child)
		expect(t, "one that has come in", outside.Do(closing(nothing, times)), env.Results{injected: times})
		old.Move(neighbour)
		expect(t, "one that has left", old.Do(closing(nothing, times)), env.Results{unix.EBADF: times})
		if after := i.Count(); after.Injected-before.Injected < 2*times || after.Missed != 0 {
			t.Errorf("counters %+v, before %+v", after, before)
		}
		i.End()
		expect(t, "afterwards", young.Do(closing(nothing, times)), env.Results{unix.EBADF: times})
	})
}

func TestRatesAreExact(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		const times = 4000
		for _, rate := range []*v1.Rate{
			{Every: proto.Uint64(7)}, {First: proto.Uint64(10)}, {Skip: proto.Uint64(100), First: proto.Uint64(5)}, {Probability: proto.Float64(0.25)}, {Probability: proto.Float64(0.5), Skip: proto.Uint64(10), First: proto.Uint64(300)},
		} {
			spec := fails(mechanism, "close")
			spec.Rate = rate
			i := inject(t, spec, target)
			want := 0
			choices := dice.NewSequence(dice.New(0, spec))
			for range times {
				if choices.Next() {
					want++
				}
			}
			order := closing(nothing, times/4)
			order.Threads = 4
			if !env.Prober(t).Probe(t.Context(), kernel.AtomicFetch).OK() {
				// Threads get into each other's way there: what one gives up is missed.
				order = closing(nothing, times)
			}
			expect(t, rate.String(), caller.Do(order), env.Results{injected: want, unix.EBADF: times - want})
			expectCounters(t, i, times, uint64(want))
			i.End()
		}
	})
}

// What many threads do at once is hit, let by, or counted as missed.
func TestEveryCallOfManyThreadsIsCounted(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		const times, threads = 500, 8
		spec := fails(mechanism, "close")
		spec.Rate = &v1.Rate{Every: proto.Uint64(2)}
		i := inject(t, spec, target)
		order := closing(nothing, times)
		order.Threads = threads
		results := caller.Do(order)
		c := i.Count()
		if c.Matched != times*threads || c.Injected != uint64(results[injected]) || c.Injected != (c.Matched-c.Missed)/2 {
			t.Errorf("counters %+v, results %v", c, results)
		}
		if c.Missed > c.Matched/10 {
			t.Errorf("%d of %d calls were missed", c.Missed, c.Matched)
		}
	})
}

// Calls by the entry of 32-bit processes have a function of their own, and their
// arguments in other registers.
func TestThe32BitEntry(t *testing.T) {
	onlyAMD64(t)
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		caller, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		const closeOf386, mmap2Of386, times = 6, 192, 50
		order := env.Order{Number: closeOf386, Arguments: []int64{-100}, Compat: true, Times: times}
		expect(t, "before", caller.Do(order), env.Results{unix.EBADF: times})
		spec := fails(mechanism, "close", "mmap")
		spec.GetSyscallError().Arguments = arguments("EQUAL -100")
		i := inject(t, spec, target)
		if warned := strings.Join(i.Plan.Warnings, "\n"); strings.Contains(warned, "not hit: calls of 32-bit processes by __ia32_sys_close") {
			expect(t, "not hit, as was said", caller.Do(order), env.Results{unix.EBADF: times})
			expectCounters(t, i, 0, 0)
			kernels.Missing(t, "calls-of-32-bit", errors.New(warned))
		}
		expect(t, "of the target", caller.Do(order), env.Results{injected: times})
		expect(t, "of the neighbour", outside.Do(order), env.Results{unix.EBADF: times})
		other := order
		other.Arguments = []int64{-101}
		expect(t, "with another argument", caller.Do(other), env.Results{unix.EBADF: times})
		mapping := env.Order{Number: mmap2Of386, Arguments: []int64{-100, 0, 0, 0, -1, 0}, Compat: true}
		expect(t, "mmap2", caller.Do(mapping), env.Results{injected: 1})
		expectCounters(t, i, times+1, times+1)
		if event := env.FirstEvent(t, i); event.GetWhat() != "close" {
			t.Errorf("event %v", event)
		}
		i.End()
		expect(t, "afterwards", caller.Do(order), env.Results{unix.EBADF: times})
	})
}

func TestObservedCallsGoOn(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		spec := fails(mechanism, "close")
		spec.Observe, spec.Rate = true, &v1.Rate{Every: proto.Uint64(2)}
		i := inject(t, spec, target)
		expect(t, "observed", caller.Do(closing(nothing, 100)), env.Results{unix.EBADF: 100})
		expectCounters(t, i, 100, 50)
		i.End()
	})
}

func TestEventsSayWhoCalledWhat(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		i := inject(t, fails(mechanism, "close"), target)
		caller.Do(closing(nothing, 10))
		event := env.FirstEvent(t, i)
		if event.GetWhat() != "close" || int(event.GetPid()) != caller.PID() || event.GetCommand() != "calls" ||
			event.GetErrno() != "ENOTNAM" || event.GetCgroupId() != target.ID {
			t.Errorf("event %v, of process %d in cgroup %d", event, caller.PID(), target.ID)
		}
		if age := time.Since(event.GetTime().AsTime()); age < 0 || age > time.Minute {
			t.Errorf("the event is %s old", age)
		}
	})
}

func TestTheLeaseEndsIt(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		caller := env.NewCaller(t, target)
		i := inject(t, fails(mechanism, "close"), target)
		expect(t, "while it lasts", caller.Do(closing(nothing, 10)), env.Results{injected: 10})
		if err := i.Renew(fault.Lease{Deadline: fault.BootTime()}); err != nil {
			t.Fatal(err)
		}
		expect(t, "afterwards", caller.Do(closing(nothing, 10)), env.Results{unix.EBADF: 10})
		expectCounters(t, i, 10, 10)
	})
}

// The kernel asks one program after another until one answers.
func TestTwoFaultsOfOneCall(t *testing.T) {
	needMechanism(t, "fmod_ret")
	target := env.Cgroup(t)
	caller := env.NewCaller(t, target)
	low, high := fails("fmod_ret", "close"), fails("fmod_ret", "close")
	low.GetSyscallError().Arguments = arguments("LESS 1000")
	high.GetSyscallError().Arguments = arguments("GREATER 900")
	high.GetSyscallError().Errno = "EXDEV"
	a, b := inject(t, low, target), inject(t, high, target)
	if conflict := a.Plan.Claims[0].Conflict(b.Plan.Claims[0]); conflict != "" {
		t.Errorf("conflict %q", conflict)
	}
	expect(t, "low", caller.Do(closing(800, 10)), env.Results{injected: 10})
	expect(t, "high", caller.Do(closing(2000, 10)), env.Results{unix.EXDEV: 10})
	both := caller.Do(closing(950, 10))
	if both[injected]+both[unix.EXDEV] != 10 {
		t.Errorf("results %v", both)
	}
	ca, cb := a.Count(), b.Count()
	if ca.Injected+cb.Injected != 30 || ca.Injected != uint64(10+both[injected]) {
		t.Errorf("counters %+v and %+v, results of both %v", ca, cb, both)
	}
}

func TestWhatThePlanRefusesAndWarnsOf(t *testing.T) {
	needMechanism(t, "fmod_ret")
	target := env.Cgroup(t)
	plan := func(change func(*v1.Fault), calls ...string) (*fault.Plan, error) {
		spec := fails("", calls...)
		change(spec)
		return env.Plan(t, syscall.Error(), spec, nil, target)
	}
	for _, tt := range []struct {
		name   string
		calls  []string
		change func(*v1.Fault)
		want   string
	}{
		{"pinned", []string{"close"}, func(f *v1.Fault) { f.Persistence = v1.Fault_PINNED }, "not built yet"},
		{"a call that is none any more", []string{"close", "create_module"}, func(*v1.Fault) {}, "no system call create_module"},
	} {
		if _, err := plan(tt.change, tt.calls...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
	p, err := plan(func(*v1.Fault) {}, "mmap", "clock_gettime", "open", "close")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(p.Warnings, "\n")
	for _, want := range []string{"usually ends when mmap fails", "for clock_gettime", "call openat instead"} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning %q in %q", want, text)
		}
	}
	if len(p.Changes) < 4 {
		t.Errorf("changes %v", p.Changes)
	}
}

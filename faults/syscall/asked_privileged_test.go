//go:build linux && privileged

package syscall_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/test/env"
)

// theirs are calls that ask the security modules, and arguments with which they do next
// to nothing, with the pipes that the program gets its orders by.
var theirs = []struct {
	name      string
	number    uint32
	arguments []int64
	errno     unix.Errno
}{
	{"read", unix.SYS_READ, []int64{0, nowhere, 0}, 0},
	{"write", unix.SYS_WRITE, []int64{1, nowhere, 0}, 0},
	{"fstat", unix.SYS_FSTAT, []int64{0, nowhere}, unix.EFAULT},
	{"fstatfs", unix.SYS_FSTATFS, []int64{0, nowhere}, unix.EFAULT},
	{"flock", unix.SYS_FLOCK, []int64{0, unix.LOCK_UN}, 0},
	{"fcntl", unix.SYS_FCNTL, []int64{0, unix.F_GETFD}, 0},
	{"ioctl", unix.SYS_IOCTL, []int64{0, unix.TCGETS, nowhere}, unix.ENOTTY},
	{"fchmod", unix.SYS_FCHMOD, []int64{0, 0o600}, 0},
	{"sched_getscheduler", unix.SYS_SCHED_GETSCHEDULER, []int64{0}, 0},
	{"setpriority", unix.SYS_SETPRIORITY, []int64{0, 0, 0}, 0},
	{"prctl", unix.SYS_PRCTL, []int64{unix.PR_GET_DUMPABLE}, 0},
	{"socket", unix.SYS_SOCKET, []int64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, 0},
	{"mmap", unix.SYS_MMAP, []int64{0, 4096, 1, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, nothing, 0}, 0},
}

// Where nobody may answer at the entry of a call, it is met where the security modules
// are asked.
func TestEachCallThatAsksFails(t *testing.T) {
	onlyAMD64(t)
	env.EachMechanism(t, some(func(m string) bool { return !atEntry(m) }), func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		inside, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		for _, call := range theirs {
			t.Run(call.name, func(t *testing.T) {
				const times = 30
				order := env.Order{Number: call.number, Arguments: call.arguments, Times: times}
				expect(t, "before", inside.Do(order), env.Results{call.errno: times})
				spec := fails(mechanism, call.name)
				spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
				if call.name == "read" || call.name == "write" {
					// The program gets its orders and answers so too.
					spec.GetSyscallError().Arguments = []*v1.Argument{{Index: 2, Is: v1.Argument_EQUAL, Value: 0}}
				}
				i := inject(t, spec, target)
				outside.Begin(order)
				expect(t, "of the target", inside.Do(order), env.Results{injected: times / 3, call.errno: times - times/3})
				expect(t, "of the neighbour", outside.End(), env.Results{call.errno: times})
				expectCounters(t, i, times, times/3)
				i.End()
				expect(t, "afterwards", inside.Do(order), env.Results{call.errno: times})
			})
		}
		t.Run("another call at the same hook", func(t *testing.T) {
			// The program reads its orders and writes its answers meanwhile.
			i := inject(t, fails(mechanism, "pread64", "pwrite64", "sched_getparam", "fstatfs"), target)
			expect(t, "sched_getscheduler", inside.Do(env.Order{Number: unix.SYS_SCHED_GETSCHEDULER, Arguments: []int64{0}, Times: 10}), env.Results{0: 10})
			// fstatfs, by the entry of 32 bits.
			expect(t, "of 32 bits", inside.Do(env.Order{Number: 100, Arguments: []int64{0, nowhere}, Compat: true, Times: 10}), env.Results{unix.EFAULT: 10})
			expectCounters(t, i, 0, 0)
			i.End()
		})
		t.Run("a call that does not ask", func(t *testing.T) {
			_, err := env.Plan(t, syscall.Error(), fails(mechanism, "close"), nil, target)
			if !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "asks no security module about close") {
				t.Errorf("error %v", err)
			}
		})
	})
}

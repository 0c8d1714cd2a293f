// Package syscall holds the faults of system calls.
package syscall

import (
	"fmt"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/nearest"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

//go:generate go run ./gen

// Kinds are the kinds of the family. None is built yet.
func Kinds() []fault.Kind { return []fault.Kind{syscallError(), syscallDelay()} }

func syscallError() fault.Kind {
	return fault.Kind{
		Name:    "syscallError",
		Summary: "system calls fail with an errno, with conditions on arguments and path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "fmod_ret",
				Summary: "fmod_ret on the system call",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSyscall},
			},
			{
				Name:    "fmod_ret_security",
				Summary: "fmod_ret on the call's security_* hook; sees io_uring and 32-bit calls; not for fsync, close, poll, futex",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity},
			},
			{
				Name:    "lsm",
				Summary: "an LSM program on the call's hook",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSM},
			},
			{
				Name:    "kprobe_override",
				Summary: "a kprobe on the system call that overrides its result",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.KprobeOverride},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
syscallError:
  calls: [openat]
  errno: EMFILE
  arguments: [{index: 2, is: HAS_BITS, value: 0x40}]
rate: {every: 10}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: "syscallError"}
			p.Errno("errno", spec.GetSyscallError().GetErrno())
			validateCalls(&p, spec.GetSyscallError())
			p.NoFilter(spec, "syscallError")
			return p.List()
		},
	}
}

func syscallDelay() fault.Kind {
	return fault.Kind{
		Name:    "syscallDelay",
		Summary: "system calls take longer",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "sleepable_fmod_ret",
				Summary: "lanes of sleepable fmod_ret programs on the system call",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.SleepableFmodRet, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE},
			},
			{
				Name:    "sleepable_lsm",
				Summary: "a sleepable LSM program on the call's hook; not for read and write",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.SleepableLSM, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
syscallDelay: {calls: [fsync, fdatasync], delay: 200ms, jitter: 50ms, distribution: PARETO}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: "syscallDelay"}
			validateCalls(&p, spec.GetSyscallDelay())
			p.Delay(spec.GetSyscallDelay(), true)
			p.NoFilter(spec, "syscallDelay")
			return p.List()
		},
	}
}

// unanswered are calls that never return to their caller, or not as calls do.
var unanswered = []string{"exit", "exit_group", "rt_sigreturn"}

// maxArgument is the index of a system call's last argument.
const maxArgument = 5

func validateCalls(p *check.Problems, spec interface {
	GetCalls() []string
	GetArguments() []*v1.Argument
	GetPath() string
}) {
	if len(spec.GetCalls()) == 0 {
		p.Add("calls", "is missing; give at least one name of syscalls(2), such as openat")
	}
	for i, call := range spec.GetCalls() {
		at := fmt.Sprintf("calls[%d]", i)
		_, known := slices.BinarySearch(names, call)
		switch {
		case !known:
			hint := "write a name of syscalls(2), such as openat"
			if word, ok := nearest.Word(call, names); ok {
				hint = fmt.Sprintf("did you mean %q?", word)
			}
			p.Add(at, "unknown system call %q; %s", call, hint)
		case slices.Contains(unanswered, call):
			p.Add(at, "%q does not return to its caller, so that nothing could be injected", call)
		case slices.Contains(spec.GetCalls()[:i], call):
			p.Add(at, "%q is given twice", call)
		}
	}
	for i, argument := range spec.GetArguments() {
		at := fmt.Sprintf("arguments[%d].", i)
		if argument.GetIndex() > maxArgument {
			p.Add(at+"index", "is %d; allowed is 0 to %d", argument.GetIndex(), maxArgument)
		}
		if argument.GetIs() == v1.Argument_COMPARISON_UNSPECIFIED {
			p.Add(at+"is", "is missing; give one of EQUAL, NOT_EQUAL, LESS, GREATER, HAS_BITS")
		}
	}
	p.Glob("path", spec.GetPath())
}

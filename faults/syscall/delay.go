package syscall

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// delay is syscallDelay, which is not built yet.
func delay() fault.Kind {
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

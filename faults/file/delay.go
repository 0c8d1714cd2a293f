package file

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// delay is fileDelay, which is not built yet.
func delay() fault.Kind {
	return fault.Kind{
		Name:    "fileDelay",
		Summary: "file operations take longer, by path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "sleepable_lsm",
				Summary: "sleepable LSM programs; not for READ, WRITE and FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.SleepableLSM, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE},
			},
			{
				Name:    "sleepable_fmod_ret",
				Summary: "lanes of sleepable fmod_ret programs on the system calls",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.SleepableFmodRet, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE},
			},
			{
				Name:    "fanotify",
				Summary: "permission events that are answered late; for OPEN and READ",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.Fanotify},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
fileDelay: {operations: [READ], path: /var/lib/checkout/**, delay: 50ms}
duration: 60s`,
		Validate: validateDelay,
	}
}

func validateDelay(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "fileDelay"}
	validateWhere(&p, spec.GetFileDelay())
	p.Delay(spec.GetFileDelay(), true)
	p.NoFilter(spec, "fileDelay")
	return p.List()
}

// Package file holds the faults of file operations.
package file

import (
	"fmt"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Kinds are the kinds of the family. None is built yet.
func Kinds() []fault.Kind { return []fault.Kind{fileError(), fileDelay()} }

func fileError() fault.Kind {
	return fault.Kind{
		Name:    "fileError",
		Summary: "open, read, write, fsync, mmap, stat, unlink, rename and others fail with an errno, by path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "fmod_ret_security",
				Summary: "fmod_ret on security_* hooks, matched on the file; not for FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity},
			},
			{
				Name:    "lsm",
				Summary: "LSM programs on the same hooks; not for FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSM},
			},
			{
				Name:    "fmod_ret",
				Summary: "fmod_ret on the system calls",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSyscall},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
fileError: {operations: [OPEN, WRITE], path: /var/lib/checkout/**, errno: EIO}
rate: {probability: 0.1}
duration: 60s`,
		Validate: validateFileError,
	}
}

func fileDelay() fault.Kind {
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
		Validate: validateFileDelay,
	}
}

// operations are all of FileOperation but the unspecified one.
func operations() []v1.FileOperation {
	var list []v1.FileOperation
	for op := v1.FileOperation(1); v1.FileOperation_name[int32(op)] != ""; op++ {
		list = append(list, op)
	}
	return list
}

func validateWhere(p *check.Problems, spec interface {
	GetOperations() []v1.FileOperation
	GetPath() string
}) {
	check.Choices(p, "operations", spec.GetOperations(), operations())
	if spec.GetPath() == "" {
		p.Add("path", "is missing; give an absolute path or pattern, such as /var/lib/cart/**")
	}
	p.Glob("path", spec.GetPath())
}

func validateFileError(spec *v1.Fault) []fault.Problem {
	file := spec.GetFileError()
	p := check.Problems{Prefix: "fileError"}
	validateWhere(&p, file)
	switch {
	case len(file.GetErrnos()) == 0:
		p.Errno("errno", file.GetErrno())
	case file.GetErrno() != "":
		p.Add("errnos", "errno and errnos exclude each other; give one")
	}
	for i, one := range file.GetErrnos() {
		p.Errno(fmt.Sprintf("errnos[%d].errno", i), one.GetErrno())
		if one.GetWeight() == 0 {
			p.Add(fmt.Sprintf("errnos[%d].weight", i), "is missing or 0; give how often it is chosen beside the others, at least 1")
		}
	}
	p.NoFilter(spec, "fileError")
	return p.List()
}

func validateFileDelay(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "fileDelay"}
	validateWhere(&p, spec.GetFileDelay())
	p.Delay(spec.GetFileDelay(), true)
	p.NoFilter(spec, "fileDelay")
	return p.List()
}

// Package disk holds the faults of block I/O.
package disk

import (
	"fmt"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Kinds are the kinds of the family. diskDelay is not built yet.
func Kinds() []fault.Kind { return []fault.Kind{Error(), diskDelay()} }

func diskDelay() fault.Kind {
	return fault.Kind{
		Name:    "diskDelay",
		Summary: "block I/O of the cgroup takes longer, by device, direction and sectors",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "should_fail_bio",
				Summary: "sleepable fmod_ret on should_fail_bio",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.ShouldFailBio, kernel.SleepableFmodRet, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE},
			},
			{
				Name:    "io_max",
				Summary: "a limit in io.max: a rate, not a latency; for whole devices",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.IOController},
			},
		},
		Example: `target: {systemdUnit: postgresql.service}
diskDelay: {operations: [READ, WRITE], device: /dev/sdb, delay: 20ms}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: "diskDelay"}
			validateWhere(&p, spec.GetDiskDelay())
			p.Delay(spec.GetDiskDelay(), true)
			p.NoFilter(spec, "diskDelay")
			return p.List()
		},
	}
}

func validateWhere(p *check.Problems, spec where) {
	check.Choices(p, "operations", spec.GetOperations(), []v1.DiskError_Operation{
		v1.DiskError_READ, v1.DiskError_WRITE, v1.DiskError_FLUSH, v1.DiskError_DISCARD,
	})
	switch {
	case spec.GetDevice() == "" && spec.GetMountPoint() == "":
		p.Add("", "device and mountPoint are missing; give one: a block device such as /dev/sdb, or where a file system is mounted")
	case spec.GetDevice() != "" && spec.GetMountPoint() != "":
		p.Add("mountPoint", "device and mountPoint exclude each other; give one")
	case spec.GetDevice() != "" && !strings.HasPrefix(spec.GetDevice(), "/dev/"):
		p.Add("device", "%q is no block device; give one below /dev, such as /dev/sdb", spec.GetDevice())
	}
	p.AbsolutePath("device", spec.GetDevice())
	p.AbsolutePath("mountPoint", spec.GetMountPoint())
	if n := len(spec.GetSectors()); n > rangesMax {
		p.Add("sectors", "are %d ranges; at most %d are allowed", n, rangesMax)
	}
	for i, sectors := range spec.GetSectors() {
		if sectors.GetFirst() > sectors.GetLast() {
			p.Add(fmt.Sprintf("sectors[%d].last", i), "is %d, before the first, %d; both are included", sectors.GetLast(), sectors.GetFirst())
		}
	}
}

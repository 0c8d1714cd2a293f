// Package pressure holds the faults that make resources scarce.
package pressure

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Kinds are the kinds of the family. None is built yet.
func Kinds() []fault.Kind {
	return []fault.Kind{
		kind("cpuPressure", "takes processor time away: a limit, load inside the cgroup, or both", kernel.CPUController,
			`{limit: "20%", load: 100}`, validateCPU),
		kind("memoryPressure", "takes memory away: a limit, load inside the cgroup, or both", kernel.MemoryController,
			`{limit: 256MiB}`, validateMemory),
		kind("ioPressure", "takes disk throughput away: a limit, load inside the cgroup, or both", kernel.IOController,
			`{limit: "8:0 rbps=1048576 wbps=1048576"}`, validateIO),
		kind("pidsPressure", "takes process ids away: a limit, tasks inside the cgroup, or both", kernel.PidsController,
			`{limit: "100"}`, validatePids),
	}
}

// kind fills in what the four have in common.
func kind(name, summary string, controller kernel.Capability, example string, validate func(*check.Problems, *v1.Fault)) fault.Kind {
	return fault.Kind{
		Name:    name,
		Summary: summary,
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{{
			Name:    "cgroup_files",
			Summary: "the limit in the cgroup's files, behind a journal record; load by a process of ours in the cgroup",
			Needs:   []kernel.Capability{kernel.CgroupV2, controller},
		}},
		Example: "target: {systemdUnit: checkout.service}\n" + name + ": " + example + "\nduration: 60s",
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: name}
			validate(&p, spec)
			p.NoFilter(spec, name)
			p.NoRate(spec, name)
			return p.List()
		},
	}
}

func needsOne(p *check.Problems, limit string, load bool) {
	if limit == "" && !load {
		p.Add("", "limit and load are missing; give one or both")
	}
}

// cpuMax is what cpu.max takes: microseconds of each period of microseconds.
var cpuMax = regexp.MustCompile(`^([0-9]{1,10})( [0-9]{1,10})?$`)

// The kernel takes quotas and periods from 1 ms, and periods up to 1 s
// (kernel/sched/core.c, tg_set_cfs_bandwidth).
const (
	leastCPU      = 1000
	longestPeriod = 1_000_000
)

func validateCPU(p *check.Problems, spec *v1.Fault) {
	cpu := spec.GetCpuPressure()
	needsOne(p, cpu.GetLimit(), cpu.GetLoad() != 0)
	if !(cpu.GetLoad() >= 0) || math.IsInf(cpu.GetLoad(), 0) {
		p.Add("load", "is %v; give percent of one CPU, above 0 (200 is two CPUs)", cpu.GetLoad())
	}
	if limit := cpu.GetLimit(); limit != "" && !cpuLimit(limit) {
		p.Add("limit", `%q is no limit; write percent of one CPU ("20%%"), or quota and period in microseconds as in cpu.max ("20000 100000"), both from %d, the period at most %d`,
			limit, leastCPU, longestPeriod)
	}
}

func cpuLimit(limit string) bool {
	if number, ok := strings.CutSuffix(limit, "%"); ok {
		// One percent is the least quota of the longest usual period, 100 ms.
		v, err := strconv.ParseFloat(number, 64)
		return err == nil && v >= 1 && !math.IsInf(v, 0)
	}
	m := cpuMax.FindStringSubmatch(limit)
	if m == nil {
		return false
	}
	quota, _ := strconv.Atoi(m[1])
	period := longestPeriod
	if m[2] != "" {
		period, _ = strconv.Atoi(m[2][1:])
	}
	return quota >= leastCPU && period >= leastCPU && period <= longestPeriod
}

func validateMemory(p *check.Problems, spec *v1.Fault) {
	memory := spec.GetMemoryPressure()
	needsOne(p, memory.GetLimit(), memory.GetLoad() != 0)
	if memory.GetLimit() == "" {
		return
	}
	if v, err := units.ParseBytes(memory.GetLimit()); err != nil {
		p.Add("limit", "%s", err)
	} else if v == 0 {
		p.Add("limit", "is 0; give a size above 0, such as 256MiB")
	}
}

// ioMax is a line of io.max: a device, and at least one limit.
var ioMax = regexp.MustCompile(`^[0-9]+:[0-9]+( (rbps|wbps|riops|wiops)=([1-9][0-9]*|max))+$`)

func validateIO(p *check.Problems, spec *v1.Fault) {
	io := spec.GetIoPressure()
	needsOne(p, io.GetLimit(), io.GetLoad() != 0)
	if io.GetLimit() != "" && !ioMax.MatchString(io.GetLimit()) {
		p.Add("limit", `%q is no line of io.max; write the device's numbers and one or more of rbps, wbps, riops, wiops, as in "8:0 rbps=1048576"`, io.GetLimit())
	}
}

func validatePids(p *check.Problems, spec *v1.Fault) {
	pids := spec.GetPidsPressure()
	needsOne(p, pids.GetLimit(), pids.GetLoad() != 0)
	if pids.GetLimit() == "" {
		return
	}
	if _, err := strconv.ParseUint(pids.GetLimit(), 10, 31); err != nil {
		p.Add("limit", `%q is no limit; write a whole number of tasks, such as "100"`, pids.GetLimit())
	}
}

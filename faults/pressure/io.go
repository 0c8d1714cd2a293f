package pressure

import (
	"regexp"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

func ioPressure() fault.Kind {
	const name = "ioPressure"
	return fault.Kind{
		Name:    name,
		Summary: "takes disk throughput away: a limit, load inside the cgroup, or both",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{{
			Name:    mechanismFiles,
			Summary: "the limit in the cgroup's file, behind a journal record; load by a process of ours in the cgroup",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.IOController},
		}},
		Example: `target: {systemdUnit: checkout.service}
ioPressure: {limit: "8:0 rbps=1048576 wbps=1048576"}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: name}
			validateIO(&p, spec)
			p.NoFilter(spec, name)
			p.NoRate(spec, name)
			return p.List()
		},
	}
}

// ioMax is a line of io.max: a device, and at least one limit.
var ioMax = regexp.MustCompile(`^[0-9]+:[0-9]+( (rbps|wbps|riops|wiops)=([1-9][0-9]*|max))+$`)

func validateIO(p *check.Problems, spec *v1.Fault) {
	io := spec.GetIoPressure()
	if io.GetLimit() == "" && io.GetLoad() == 0 {
		p.Add("", "limit and load are missing; give one or both")
	}
	if io.GetLimit() != "" && !ioMax.MatchString(io.GetLimit()) {
		p.Add("limit", `%q is no line of io.max; write the device's numbers and one or more of rbps, wbps, riops, wiops, as in "8:0 rbps=1048576"`, io.GetLimit())
	}
}

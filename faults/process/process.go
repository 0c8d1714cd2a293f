// Package process holds the faults that stop processes.
package process

import (
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Kinds are the kinds of the family. processKill is not built yet.
func Kinds() []fault.Kind { return []fault.Kind{processKill(), Pause()} }

func processKill() fault.Kind {
	return fault.Kind{
		Name:    "processKill",
		Summary: "sends a signal to the processes of the cgroup, once or at an interval",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "cgroup_kill",
				Summary: "cgroup.kill, which no new process escapes; for SIGKILL",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupKill},
			},
			{
				Name:    "pidfd",
				Summary: "each process through its pidfd",
				Needs:   []kernel.Capability{kernel.CgroupV2},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
processKill: {signal: SIGKILL, interval: 20s, count: 3}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			kill := spec.GetProcessKill()
			p := check.Problems{Prefix: "processKill"}
			if kill.GetSignal() != "" {
				if _, err := check.SignalByName(kill.GetSignal()); err != nil {
					p.Add("signal", "%s", err)
				}
			}
			validateTimes(&p, spec, kill)
			p.NoFilter(spec, "processKill")
			return p.List()
		},
	}
}

func validateTimes(p *check.Problems, spec *v1.Fault, times interface {
	GetInterval() *durationpb.Duration
	GetCount() uint32
}) {
	longest := fault.MaxDuration
	if d := spec.GetDuration().AsDuration(); d > 0 && d < longest {
		longest = max(d, time.Millisecond)
	}
	p.Positive("interval", times.GetInterval(), longest)
	if times.GetCount() > 1 && times.GetInterval() == nil {
		p.Add("count", "is %d without an interval; give the time between two", times.GetCount())
	}
}

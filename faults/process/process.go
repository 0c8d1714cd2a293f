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

// Kinds are the kinds of the family. None is built yet.
func Kinds() []fault.Kind { return []fault.Kind{processKill(), processPause()} }

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

func processPause() fault.Kind {
	return fault.Kind{
		Name:    "processPause",
		Summary: "stops the processes of the cgroup and lets them go on at the end",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "cgroup_freeze",
				Summary: "cgroup.freeze, which the processes can't see",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupFreeze},
			},
			{
				Name:    "pidfd",
				Summary: "SIGSTOP to each process, SIGCONT at the end",
				Needs:   []kernel.Capability{kernel.CgroupV2},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
processPause: {}
duration: 10s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			pause := spec.GetProcessPause()
			p := check.Problems{Prefix: "processPause"}
			if s := pause.GetSignal(); s != "" && s != "SIGSTOP" {
				p.Add("signal", "%q does not pause; allowed is SIGSTOP, or nothing for the cgroup freezer", s)
			}
			validateTimes(&p, spec, pause)
			p.NoFilter(spec, "processPause")
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

// Package pressure holds the faults that make resources scarce.
package pressure

import (
	"context"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Kinds are the kinds of the family. ioPressure is not built yet.
func Kinds() []fault.Kind { return []fault.Kind{CPU(), Memory(), ioPressure(), Pids()} }

const mechanismFiles = "cgroup_files"

// limit makes a kind that writes a limit.
func limit(base fault.Kind, controller kernel.Capability, validate func(*check.Problems, *v1.Fault), plan func(fault.Request) (*cgroupfile.Fault, error)) fault.Kind {
	base.Scope = fault.ScopeCgroup
	base.Mechanisms = []fault.Mechanism{{
		Name:    mechanismFiles,
		Summary: "the limit in the cgroup's file, behind a journal record",
		Needs:   []kernel.Capability{kernel.CgroupV2, controller},
	}}
	base.Validate = func(spec *v1.Fault) []fault.Problem {
		p := check.Problems{Prefix: base.Name}
		validate(&p, spec)
		return append(p.List(), cgroupfile.Validate(spec, base.Name)...)
	}
	base.Plan = func(ctx context.Context, req fault.Request) (*fault.Plan, error) {
		mechanism, err := fault.Choose(ctx, req, base, mechanismFiles)
		if err != nil {
			return nil, err
		}
		f, err := plan(req)
		if err != nil {
			return nil, err
		}
		f.Kind = base
		return f.Plan(req, mechanism)
	}
	return base
}

// onlyLimit reports what is missing, and load, which is not built yet.
func onlyLimit(p *check.Problems, limit string, load bool, example string) {
	if load {
		p.Add("load", "is %s; give a limit instead", fault.ErrNotBuilt)
	} else if limit == "" {
		p.Add("limit", "is missing; give %s", example)
	}
}

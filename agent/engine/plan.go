package engine

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
)

// planned is a fault with its target and its mechanism.
type planned struct {
	spec    *v1.Fault
	step    string
	kind    fault.Kind
	cgroups []fault.Cgroup
	plan    *fault.Plan
}

func (p *planned) duration() time.Duration { return p.spec.GetDuration().AsDuration() }

func (p *planned) target() *v1.ResolvedTarget {
	resolved := &v1.ResolvedTarget{Given: p.spec.GetTarget()}
	for _, cgroup := range p.cgroups {
		resolved.Cgroups = append(resolved.Cgroups, &v1.Cgroup{Path: cgroup.Path, Id: cgroup.ID})
	}
	return resolved
}

// Plan says what Run would do; it changes nothing. The experiment must be
// valid and have its defaults (faults.Validate, faults.Defaults). Errors match
// those of Run.
func (e *Engine) Plan(ctx context.Context, experiment *v1.Experiment) (*v1.Plan, error) {
	spec := experiment.GetSpec()
	if err := e.checkLease(spec); err != nil {
		return nil, err
	}
	out := &v1.Plan{Name: experiment.GetMetadata().GetName(), Seed: spec.GetSeed()}
	var total time.Duration
	for _, step := range spec.GetSteps() {
		list, err := e.planStep(ctx, spec, step)
		if err != nil {
			return nil, err
		}
		var longest time.Duration
		for _, p := range list {
			longest = max(longest, p.duration())
			out.Faults = append(out.Faults, &v1.FaultPlan{
				Name:      p.spec.GetName(),
				Fault:     p.kind.Name,
				Step:      p.step,
				Target:    p.target(),
				Mechanism: p.plan.Mechanism,
				Duration:  p.spec.GetDuration(),
				Summary:   p.plan.Summary,
				Changes:   p.plan.Changes,
				Warnings:  p.plan.Warnings,
			})
		}
		total += longest
	}
	out.Duration = durationpb.New(total)
	return out, nil
}

// checkLease holds the document against what this machine allows.
func (e *Engine) checkLease(spec *v1.ExperimentSpec) error {
	if wanted := spec.GetLeaseTimeout().AsDuration(); e.MaxLease > 0 && wanted > e.MaxLease {
		return fmt.Errorf("%w: leaseTimeout is %s, this machine allows %s at the most", ErrLease, wanted, e.MaxLease)
	}
	return nil
}

// planStep plans the faults of one step and compares what they claim.
func (e *Engine) planStep(ctx context.Context, spec *v1.ExperimentSpec, step *v1.Step) ([]*planned, error) {
	var list []*planned
	for _, f := range step.GetFaults() {
		p, err := e.planFault(ctx, spec, step, f)
		if err != nil {
			return nil, fmt.Errorf("fault %q: %w", f.GetName(), err)
		}
		for _, other := range list {
			if what := conflict(p.plan.Claims, other.plan.Claims); what != "" {
				return nil, fmt.Errorf("%w: %q and %q both act on %s; give them filters that don't overlap, or put them into different steps",
					ErrConflict, other.spec.GetName(), p.spec.GetName(), what)
			}
		}
		list = append(list, p)
	}
	return list, nil
}

func conflict(a, b []fault.Claim) string {
	for _, mine := range a {
		for _, theirs := range b {
			if what := mine.Conflict(theirs); what != "" {
				return what
			}
		}
	}
	return ""
}

func (e *Engine) planFault(ctx context.Context, spec *v1.ExperimentSpec, step *v1.Step, f *v1.Fault) (*planned, error) {
	kind, err := faults.KindOf(f)
	if err != nil {
		return nil, err
	}
	if !kind.Built() {
		return nil, fmt.Errorf("%s is %w", kind.Name, fault.ErrNotBuilt)
	}
	cgroups, err := e.Targets.Resolve(ctx, f.GetTarget(), faultSeed(spec, f))
	if err != nil {
		return nil, err
	}
	return e.planFor(ctx, spec, step, f, kind, cgroups)
}

// planFor plans a fault for cgroups that are known.
func (e *Engine) planFor(ctx context.Context, spec *v1.ExperimentSpec, step *v1.Step, f *v1.Fault, kind fault.Kind, cgroups []fault.Cgroup) (*planned, error) {
	plan, err := kind.Plan(ctx, fault.Request{
		Spec:       f,
		Cgroups:    cgroups,
		Seed:       faultSeed(spec, f),
		Observe:    spec.GetObserve() || f.GetObserve(),
		Exempt:     e.Exempt,
		Prober:     e.Prober,
		Resolver:   e.Resolver,
		CgroupRoot: e.CgroupRoot,
		Log:        e.Log,
	})
	if err != nil {
		return nil, err
	}
	if f.GetPersistence() == v1.Fault_PINNED && plan.Adopt == nil {
		return nil, fmt.Errorf("persistence PINNED is for faults that live in programs; a %s is put back by the guard when faultline dies; leave persistence out: %w", kind.Name, fault.ErrNotBuilt)
	}
	return &planned{spec: f, step: step.GetName(), kind: kind, cgroups: cgroups, plan: plan}, nil
}

// faultSeed makes the faults of an experiment independent of each other.
func faultSeed(spec *v1.ExperimentSpec, f *v1.Fault) uint64 {
	return dice.Derive(spec.GetSeed(), f.GetName())
}

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
)

// resumeName is the file from which another process can take a run over.
const resumeName = "resume.json"

// saved is a run whose faults are pinned, in the middle of a step.
type saved struct {
	Experiment json.RawMessage `json:"experiment"`
	// Result so far, with the faults and probes as they are.
	Result json.RawMessage `json:"result"`
	Step   int             `json:"step"`
	// Active faults of the step.
	Active []savedFault `json:"active"`
	// Before are the states that the proof has taken.
	Before map[string][]string `json:"before"`
}

type savedFault struct {
	// Index in the run's list of faults.
	Index   int            `json:"index"`
	Cgroups []fault.Cgroup `json:"cgroups"`
	// Ends and Lease are times of CLOCK_BOOTTIME in nanoseconds.
	Ends  uint64 `json:"ends"`
	Lease uint64 `json:"lease"`
}

// pinned tells whether the run outlives its process. All of its faults are
// pinned, or none (faults.Validate).
func (r *run) pinned() bool {
	for _, step := range r.spec.GetSteps() {
		for _, f := range step.GetFaults() {
			return f.GetPersistence() == v1.Fault_PINNED
		}
	}
	return false
}

// save writes down what another process needs to take the run over.
func (r *run) save() error {
	if !r.pinned() {
		return nil
	}
	r.saving.Lock()
	defer r.saving.Unlock()
	s := saved{Step: r.step, Before: r.proof.states()}
	result := proto.CloneOf(r.result)
	result.Faults, result.Probes = r.snapshot(), r.probes.Results()
	experiment := proto.CloneOf(r.experiment)
	experiment.Spec = r.spec
	var err error
	if s.Experiment, err = protojson.Marshal(experiment); err != nil {
		return fmt.Errorf("saving the run: %w", err)
	}
	if s.Result, err = protojson.Marshal(result); err != nil {
		return fmt.Errorf("saving the run: %w", err)
	}
	r.mu.Lock()
	for i, a := range r.faults {
		a.mu.Lock()
		if a.result.GetState() == v1.FaultState_ACTIVE {
			s.Active = append(s.Active, savedFault{i, a.planned.cgroups, a.ends, a.renewed.Deadline})
		}
		a.mu.Unlock()
	}
	r.mu.Unlock()
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("saving the run: %w", err)
	}
	return r.journal.WriteFile(resumeName, b)
}

func readSaved(run journal.Run) (*saved, error) {
	b, err := run.ReadFile(resumeName)
	if err != nil {
		return nil, err
	}
	s := &saved{}
	return s, json.Unmarshal(b, s)
}

// resumable tells whether a run whose process has died can be taken over: the
// leases of its faults still run.
func resumable(run journal.Run) bool {
	s, err := readSaved(run)
	now := fault.BootTime()
	return err == nil && run.SameBoot() && len(s.Active) > 0 &&
		!slices.ContainsFunc(s.Active, func(f savedFault) bool { return f.Lease <= now })
}

// Resumable lists the runs that Resume can take over.
func (e *Engine) Resumable() ([]journal.Run, error) {
	runs, err := journal.List(e.StateDir)
	return slices.DeleteFunc(runs, func(r journal.Run) bool { return r.Alive || !resumable(r) }), err
}

// Resume takes over a run whose process has died and whose faults are pinned,
// and goes on to its end as Run does. When it can't be taken over everything
// of it is taken back, and the error matches ErrNotResumable; journal.ErrInUse
// means that another process has it.
func (e *Engine) Resume(ctx context.Context, run journal.Run, progress func(*v1.RunStatus)) (*v1.Result, error) {
	r := newRun(e, &v1.Experiment{Metadata: &v1.Metadata{Name: run.Name}, Spec: &v1.ExperimentSpec{}}, progress)
	r.id, r.result.RunId = run.ID, run.ID
	j, left, err := journal.Open(run, faults.DecodeUndo)
	if err != nil {
		return r.conclude(fmt.Errorf("taking over run %s: %w", run.ID, err))
	}
	r.journal = j
	// Read after the lock was taken: nobody writes it any more.
	s, err := r.restore(run)
	if err == nil {
		err = r.rebuild(ctx, s)
	}
	if err != nil {
		return r.conclude(r.giveUp(ctx, left, err))
	}
	return r.conclude(r.during(ctx, func(ctx context.Context) error {
		r.probes.Resume(ctx, r.result.GetProbes())
		return r.steps(ctx, func(ctx context.Context) error {
			adopted, err := r.adopt(ctx, s, left)
			if err != nil {
				return r.undoAll(ctx, left, err)
			}
			return r.hold(ctx, adopted, true)
		})
	}))
}

// restore reads what was saved.
func (r *run) restore(run journal.Run) (*saved, error) {
	s, err := readSaved(run)
	if err != nil {
		return nil, fmt.Errorf("its faults are not pinned: %w", err)
	}
	experiment, result := &v1.Experiment{}, &v1.Result{}
	if err := protojson.Unmarshal(s.Experiment, experiment); err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(s.Result, result); err != nil {
		return nil, err
	}
	if !run.SameBoot() {
		return nil, errors.New("the machine was booted since")
	}
	r.experiment, r.spec, r.result, r.step = experiment, experiment.GetSpec(), result, s.Step
	r.proof.known = s.Before
	return s, r.readProbes()
}

// rebuild makes the run's list of faults: those that are over, those to be
// adopted, and those of later steps, planned anew.
func (r *run) rebuild(ctx context.Context, s *saved) error {
	if err := r.allowed(); err != nil {
		return err
	}
	for i, step := range r.spec.GetSteps() {
		if i > s.Step {
			list, err := r.plan(ctx, step)
			if err != nil {
				return err
			}
			r.faults = append(r.faults, list...)
			continue
		}
		for _, f := range step.GetFaults() {
			a, err := r.rebuildFault(ctx, s, step, f)
			if err != nil {
				return fmt.Errorf("fault %q: %w", f.GetName(), err)
			}
			r.faults = append(r.faults, a)
		}
	}
	return nil
}

func (r *run) rebuildFault(ctx context.Context, s *saved, step *v1.Step, f *v1.Fault) (*active, error) {
	index := len(r.faults)
	if index >= len(r.result.GetFaults()) {
		return nil, errors.New("its state was not saved")
	}
	result := r.result.GetFaults()[index]
	kind, err := faults.KindOf(f)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.Active, func(a savedFault) bool { return a.Index == index })
	if i < 0 {
		over := &planned{spec: f, step: step.GetName(), kind: kind, plan: &fault.Plan{Mechanism: result.GetMechanism()}}
		return &active{run: r, planned: over, result: result}, nil
	}
	p, err := r.engine.planFor(ctx, r.spec, step, f, kind, s.Active[i].Cgroups)
	if err != nil {
		return nil, err
	}
	if p.plan.Mechanism != result.GetMechanism() {
		return nil, fmt.Errorf("it was injected by %s, and would now be by %s", result.GetMechanism(), p.plan.Mechanism)
	}
	if p.plan.Adopt == nil {
		return nil, fmt.Errorf("%s can't be taken over", kind.Name)
	}
	left := time.Duration(s.Active[i].Ends - min(s.Active[i].Ends, fault.BootTime()))
	return &active{
		run:      r,
		planned:  p,
		result:   result,
		ends:     s.Active[i].Ends,
		renewed:  fault.Lease{Deadline: s.Active[i].Lease},
		deadline: time.Now().Add(left),
	}, nil
}

// adopt takes over the active faults.
func (r *run) adopt(ctx context.Context, s *saved, left []journal.Left) ([]*active, error) {
	if err := r.startGuard(); err != nil {
		return nil, err
	}
	var list []*active
	for _, f := range s.Active {
		a := r.faults[f.Index]
		if f.Lease <= fault.BootTime() {
			return nil, fmt.Errorf("the lease of %q ran out", a.planned.spec.GetName())
		}
		var open []fault.Open
		for _, l := range left {
			if l.Fault == a.planned.spec.GetName() {
				open = append(open, l.Open)
			}
		}
		if err := r.tellGuard(a, a.renewed); err != nil {
			return nil, err
		}
		injection, err := a.planned.plan.Adopt(ctx, r.recorder(a), open)
		if err != nil {
			return nil, fmt.Errorf("fault %q: %w", a.planned.spec.GetName(), err)
		}
		a.injection = injection
		list = append(list, a)
	}
	return list, r.save()
}

// giveUp takes back a run that can't be resumed, and lets go of it.
func (r *run) giveUp(ctx context.Context, left []journal.Left, why error) error {
	err := r.undoAll(ctx, left, why)
	r.result.Differences = append(r.result.Differences, r.proof.differences()...)
	r.compare()
	return errors.Join(err, r.journal.Close())
}

// undoAll undoes the records of the process before, and says why.
func (r *run) undoAll(ctx context.Context, left []journal.Left, why error) error {
	var errs []error
	for _, a := range r.faults {
		if a.injection != nil {
			errs = append(errs, a.revert(ctx))
		}
	}
	for _, l := range slices.Backward(left) {
		errs = append(errs, l.Undone.Undo(context.WithoutCancel(ctx)))
	}
	for _, a := range r.faults {
		a.update(func(f *v1.FaultResult) {
			if f.GetState() == v1.FaultState_ACTIVE {
				f.State = v1.FaultState_REVERTED
			}
		})
	}
	why = fmt.Errorf("%w: run %s: %w", ErrNotResumable, r.id, why)
	if err := errors.Join(errs...); err != nil {
		r.result.Differences = append(r.result.Differences, err.Error())
		return errors.Join(why, err)
	}
	return why
}

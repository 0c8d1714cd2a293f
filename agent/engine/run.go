package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"faultline.dev/faultline/agent/guard"
	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/agent/probe"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

// defaultLease is the lease of an experiment that gives none.
const defaultLease = 5 * time.Second

// seedMask keeps a drawn seed exact in programs that read JSON numbers as
// floating point.
const seedMask = 1<<53 - 1

// run is one experiment on its way.
type run struct {
	engine *Engine
	id     string
	// experiment as it was given, spec with what was drawn.
	experiment *v1.Experiment
	spec       *v1.ExperimentSpec
	result     *v1.Result
	journal    *journal.Journal
	probes     *probe.Runner
	proof      proof
	progress   func(*v1.RunStatus)
	// step is the index of the step that is on.
	step int
	// end ends the run early, with a cause.
	end context.CancelCauseFunc
	// early is why the run ended early; nil when it did not.
	early error

	guarding sync.Mutex
	// guard watches over the run from the first record on; nil before.
	guard *guard.Guard

	mu     sync.Mutex
	phase  string
	faults []*active
	// untold tells that other processes don't see the last status.
	untold bool

	saving sync.Mutex

	// commons is shared by the faults.
	commons fault.Commons
}

// probeFailed ends a run early because of a probe.
type probeFailed struct{ failure probe.Failure }

func (p probeFailed) Error() string {
	return fmt.Sprintf("probe %q failed: %v", p.failure.Probe, p.failure.Err)
}

// Run runs an experiment, which must be valid and have its defaults, to its
// end, and takes everything back. Ending ctx aborts it; the result gives its
// cause. progress is called a few times a second with a snapshot of its own; it
// may be nil.
//
// There is always a result. The error is nil when the run reached its end,
// whatever its verdict. It matches fault.ErrNotBuilt, fault.ErrUnavailable,
// ErrConflict, ErrBusy, ErrBlocked, ErrLease, ErrStopped, guard.ErrNoGuard, the
// sentinels of target and journal when nothing was injected, and ErrRevert when
// something could not be taken back.
func (e *Engine) Run(ctx context.Context, experiment *v1.Experiment, progress func(*v1.RunStatus)) (*v1.Result, error) {
	r := newRun(e, experiment, progress)
	err := r.prepare()
	if err == nil {
		err = r.all(ctx)
	}
	return r.conclude(err)
}

// conclude makes the result.
func (r *run) conclude(err error) (*v1.Result, error) {
	r.result.EndTime = timestamppb.Now()
	r.result.Faults = r.snapshot()
	if r.probes != nil {
		r.result.Probes = r.probes.Results()
	}
	r.judge(err)
	if r.result.GetRollback() == v1.Rollback_FAILED {
		err = errors.Join(err, fmt.Errorf("%w: see `faultline status`, try `faultline revert`", ErrRevert))
	}
	return r.result, err
}

// newRun makes a run that can be judged.
func newRun(e *Engine, experiment *v1.Experiment, progress func(*v1.RunStatus)) *run {
	if progress == nil {
		progress = func(*v1.RunStatus) {}
	}
	spec := proto.CloneOf(experiment.GetSpec())
	return &run{engine: e, experiment: experiment, spec: spec, progress: progress, result: &v1.Result{
		Name:      experiment.GetMetadata().GetName(),
		Observe:   spec.GetObserve(),
		StartTime: timestamppb.Now(),
		Version:   e.Version,
	}}
}

// prepare draws what is random and reads the probes.
func (r *run) prepare() error {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("drawing a run id: %w", err)
	}
	r.id = time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(random[:4])
	if r.spec.Seed == nil {
		r.spec.Seed = proto.Uint64(binary.NativeEndian.Uint64(random[8:]) & seedMask)
	}
	r.result.RunId = r.id
	r.result.Seed = r.spec.GetSeed()
	if err := r.engine.checkLease(r.spec); err != nil {
		return err
	}
	return r.readProbes()
}

func (r *run) readProbes() error {
	var probes []*probe.Probe
	for _, p := range r.spec.GetProbes() {
		ready, err := probe.New(p)
		if err != nil {
			return err
		}
		probes = append(probes, ready)
	}
	r.probes = probe.NewRunner(probes, func(failure probe.Failure) { r.end(probeFailed{failure}) })
	return nil
}

func (r *run) all(ctx context.Context) error {
	if err := r.allowed(); err != nil {
		return err
	}
	// First, or what a dead run has left would be taken for the machine's own.
	if err := r.engine.cleanUpFirst(ctx); err != nil {
		return err
	}
	// Everything is planned before anything is done, so that what is wrong
	// with the last step does not leave the first one half way.
	first, err := r.planAll(ctx)
	if err != nil {
		return err
	}
	if err := r.join(ctx); err != nil {
		return err
	}
	return r.during(ctx, func(ctx context.Context) error {
		r.setPhase("probing before")
		for _, failure := range r.probes.Start(ctx) {
			if failure.Abort {
				r.end(probeFailed{failure})
			}
		}
		return r.steps(ctx, func(ctx context.Context) error { return r.inject(ctx, first) })
	})
}

// during calls steps, which runs them all, with what goes on around them: the
// journal's end, reports, and the proof.
func (r *run) during(ctx context.Context, steps func(context.Context) error) (err error) {
	ctx, r.end = context.WithCancelCause(ctx)
	defer func() {
		r.early = context.Cause(ctx)
		r.end(nil)
	}()
	defer r.dismissGuard()
	defer func() {
		err = errors.Join(err, r.commons.Close(), r.journal.Close())
		failpoint.Hit(failpoint.Closed)
	}()
	reporting := r.report(ctx)
	defer reporting()
	defer r.probes.Stop()
	err = steps(ctx)
	r.setPhase("comparing")
	r.compare()
	if err == nil && ctx.Err() == nil {
		r.setPhase("probing after")
		r.probes.End(ctx)
	}
	return err
}

// allowed is the error of a machine whose owner forbids faults.
func (r *run) allowed() error {
	if r.engine.stopped() {
		return fmt.Errorf("%w: %s exists; remove it to allow faults again", ErrStopped, r.engine.StopFile)
	}
	return nil
}

// planAll plans every step and returns the first one's faults.
func (r *run) planAll(ctx context.Context) ([]*active, error) {
	var first []*active
	for i, step := range r.spec.GetSteps() {
		faults, err := r.plan(ctx, step)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			first = faults
		}
		r.mu.Lock()
		r.faults = append(r.faults, faults...)
		r.mu.Unlock()
	}
	return first, nil
}

func (r *run) plan(ctx context.Context, step *v1.Step) ([]*active, error) {
	list, err := r.engine.planStep(ctx, r.spec, step)
	if err != nil {
		return nil, err
	}
	faults := make([]*active, len(list))
	for i, p := range list {
		faults[i] = newActive(r, p)
	}
	return faults, nil
}

func (r *run) leaseTimeout() time.Duration {
	if lease := r.spec.GetLeaseTimeout().AsDuration(); lease > 0 {
		return lease
	}
	if longest := r.engine.MaxLease; longest > 0 {
		return min(defaultLease, longest)
	}
	return defaultLease
}

// steps runs one step after another, from r.step on, which begin begins.
// Whatever ends it, no fault is active when it returns, but for those that it
// says could not be taken back.
func (r *run) steps(ctx context.Context, begin func(context.Context) error) error {
	steps := r.spec.GetSteps()
	for first := r.step; r.step < len(steps) && ctx.Err() == nil; r.step++ {
		r.setPhase(steps[r.step].GetName())
		if r.step > first {
			// Containers may have been restarted since the run was planned.
			faults, err := r.plan(ctx, steps[r.step])
			if err != nil {
				return err
			}
			r.mu.Lock()
			copy(r.faults[r.firstOf(r.step):], faults)
			r.mu.Unlock()
			if err := r.claimAgain(ctx); err != nil {
				return err
			}
			begin = func(ctx context.Context) error { return r.inject(ctx, faults) }
		}
		if err := begin(ctx); err != nil {
			return err
		}
		r.result.Differences = append(r.result.Differences, r.proof.differences()...)
	}
	return nil
}

// firstOf is the index of a step's first fault in the run's list.
func (r *run) firstOf(step int) (first int) {
	for _, s := range r.spec.GetSteps()[:step] {
		first += len(s.GetFaults())
	}
	return first
}

// inject puts the faults of a step in place, starts them together, and takes
// each back when its time is over. When one can't be injected, none is started.
func (r *run) inject(ctx context.Context, faults []*active) error {
	var err error
	// One after another: what several of them decide about passes them in the
	// order of the document. After an error nothing more is touched.
	for _, a := range faults {
		if err = a.inject(ctx); err != nil {
			break
		}
	}
	if err == nil {
		err = parallel(faults, (*active).start)
	}
	if err == nil {
		err = r.save()
	}
	return errors.Join(err, r.hold(ctx, faults, err == nil))
}

// hold keeps faults that are started until their time is over, and takes them
// back; others it takes back at once.
func (r *run) hold(ctx context.Context, faults []*active, started bool) error {
	r.probes.FaultsActive(started)
	reverted := parallel(faults, func(a *active) error {
		if a.injection == nil {
			return nil
		}
		if started {
			if err := a.hold(ctx); err != nil {
				r.end(err)
			}
		}
		return a.revert(ctx)
	})
	r.probes.FaultsActive(false)
	if reverted != nil {
		r.result.Differences = append(r.result.Differences, reverted.Error())
	}
	return reverted
}

// parallel waits for all and returns all errors.
func parallel(faults []*active, fn func(*active) error) error {
	errs := make([]error, len(faults))
	var running sync.WaitGroup
	for i, a := range faults {
		running.Go(func() { errs[i] = fn(a) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// compare sets the result's rollback.
func (r *run) compare() {
	r.result.Differences = append(r.result.Differences, r.proof.differences()...)
	if len(r.result.GetDifferences()) > 0 {
		r.result.Rollback = v1.Rollback_FAILED
		return
	}
	r.result.Rollback = v1.Rollback_VERIFIED
}

// stopped tells whether the machine's owner forbids faults.
func (e *Engine) stopped() bool {
	if e.StopFile == "" {
		return false
	}
	_, err := os.Stat(e.StopFile)
	// A file that can't be looked at is taken for a stop.
	return !errors.Is(err, os.ErrNotExist)
}

func (r *run) setPhase(phase string) {
	r.mu.Lock()
	r.phase = phase
	r.mu.Unlock()
	r.tell()
}

// report tells of progress and looks for the stop file until its result is
// called.
func (r *run) report(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	reporting.Go(func() {
		every(ctx, tick, func() {
			if r.engine.stopped() {
				r.end(fmt.Errorf("%w: %s exists", ErrStopped, r.engine.StopFile))
			}
			if r.guardDied() {
				r.end(errGuardDied)
			}
			r.tell()
		})
	})
	return func() {
		cancel()
		reporting.Wait()
	}
}

// snapshot copies the results of the faults as they are now.
func (r *run) snapshot() []*v1.FaultResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*v1.FaultResult
	for _, a := range r.faults {
		a.mu.Lock()
		list = append(list, proto.CloneOf(a.result))
		a.mu.Unlock()
	}
	return list
}

// tell passes a snapshot on, to who called and to `faultline status`.
func (r *run) tell() {
	status := &v1.RunStatus{
		RunId:     r.id,
		Name:      r.result.GetName(),
		Pid:       int32(os.Getpid()),
		StartTime: r.result.GetStartTime(),
		Faults:    r.snapshot(),
		Probes:    r.probes.Results(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	status.Phase = r.phase
	status.Remaining = durationpb.New(r.remaining())
	if r.journal != nil {
		err := r.journal.WriteStatus(status)
		if err != nil && !r.untold {
			r.engine.Log.Warn("faultline status is not up to date", "error", err)
		}
		r.untold = err != nil
	}
	r.progress(status)
}

// remaining is the time until the last active fault ends.
func (r *run) remaining() time.Duration {
	var longest time.Duration
	for _, a := range r.faults {
		a.mu.Lock()
		if a.result.GetState() == v1.FaultState_ACTIVE {
			longest = max(longest, time.Until(a.deadline))
		}
		a.mu.Unlock()
	}
	return longest
}

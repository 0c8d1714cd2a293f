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

	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/agent/probe"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// defaultLease is the lease of an experiment that gives none.
const defaultLease = 5 * time.Second

// seedMask keeps a drawn seed exact in programs that read JSON numbers as
// floating point.
const seedMask = 1<<53 - 1

// run is one experiment on its way.
type run struct {
	engine   *Engine
	id       string
	spec     *v1.ExperimentSpec
	result   *v1.Result
	journal  *journal.Journal
	probes   *probe.Runner
	proof    proof
	progress func(*v1.RunStatus)
	// end ends the run early, with a cause.
	end context.CancelCauseFunc
	// early is why the run ended early; nil when it did not.
	early error

	mu     sync.Mutex
	phase  string
	faults []*active
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
// ErrConflict, ErrStopped, the sentinels of target and journal when nothing was
// injected, and ErrRevert when something could not be taken back.
func (e *Engine) Run(ctx context.Context, experiment *v1.Experiment, progress func(*v1.RunStatus)) (*v1.Result, error) {
	if progress == nil {
		progress = func(*v1.RunStatus) {}
	}
	r, err := e.newRun(experiment, progress)
	if err == nil {
		err = r.all(ctx)
	}
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

// newRun always returns a run that can be judged.
func (e *Engine) newRun(experiment *v1.Experiment, progress func(*v1.RunStatus)) (*run, error) {
	spec := proto.CloneOf(experiment.GetSpec())
	r := &run{engine: e, spec: spec, progress: progress, result: &v1.Result{
		Name:      experiment.GetMetadata().GetName(),
		Observe:   spec.GetObserve(),
		StartTime: timestamppb.Now(),
		Version:   e.Version,
	}}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return r, fmt.Errorf("drawing a run id: %w", err)
	}
	r.id = time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(random[:4])
	if spec.Seed == nil {
		spec.Seed = proto.Uint64(binary.NativeEndian.Uint64(random[8:]) & seedMask)
	}
	r.result.RunId = r.id
	r.result.Seed = spec.GetSeed()
	var probes []*probe.Probe
	for _, p := range spec.GetProbes() {
		ready, err := probe.New(p)
		if err != nil {
			return r, err
		}
		probes = append(probes, ready)
	}
	r.probes = probe.NewRunner(probes, func(failure probe.Failure) { r.end(probeFailed{failure}) })
	return r, nil
}

func (r *run) all(ctx context.Context) (err error) {
	if r.engine.stopped() {
		return fmt.Errorf("%w: %s exists; remove it to allow faults again", ErrStopped, r.engine.StopFile)
	}
	// Everything is planned before anything is done, so that what is wrong
	// with the last step does not leave the first one half way.
	first, err := r.planAll(ctx)
	if err != nil {
		return err
	}
	ctx, r.end = context.WithCancelCause(ctx)
	defer func() {
		r.early = context.Cause(ctx)
		r.end(nil)
	}()
	if r.journal, err = journal.Create(r.engine.StateDir, r.id, r.result.GetName()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.journal.Close()) }()
	reporting := r.report(ctx)
	defer reporting()

	r.setPhase("probing before")
	defer r.probes.Stop()
	for _, failure := range r.probes.Start(ctx) {
		if failure.Abort {
			r.end(probeFailed{failure})
		}
	}
	err = r.steps(ctx, first)
	r.setPhase("comparing")
	r.compare()
	if err == nil && ctx.Err() == nil {
		r.setPhase("probing after")
		r.probes.End(ctx)
	}
	return err
}

// planAll plans every step and returns the first one's faults.
func (r *run) planAll(ctx context.Context) ([]*planned, error) {
	var first []*planned
	for i, step := range r.spec.GetSteps() {
		list, err := r.engine.planStep(ctx, r.spec, step)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			first = list
		}
		for _, p := range list {
			r.mu.Lock()
			r.faults = append(r.faults, newActive(r.engine, p, r.leaseTimeout()))
			r.mu.Unlock()
		}
	}
	return first, nil
}

func (r *run) leaseTimeout() time.Duration {
	if lease := r.spec.GetLeaseTimeout().AsDuration(); lease > 0 {
		return lease
	}
	return defaultLease
}

// steps runs one step after another. Whatever ends it, no fault is active when
// it returns, but for those that it says could not be taken back.
func (r *run) steps(ctx context.Context, first []*planned) error {
	offset := 0
	for i, step := range r.spec.GetSteps() {
		if ctx.Err() != nil {
			return nil
		}
		list := first
		if i > 0 {
			// Containers may have been restarted since the run was planned.
			var err error
			if list, err = r.engine.planStep(ctx, r.spec, step); err != nil {
				return err
			}
		}
		faults := make([]*active, len(list))
		for n, p := range list {
			faults[n] = newActive(r.engine, p, r.leaseTimeout())
		}
		r.mu.Lock()
		copy(r.faults[offset:], faults)
		r.mu.Unlock()
		offset += len(faults)
		r.setPhase(step.GetName())
		if err := r.step(ctx, faults); err != nil {
			return err
		}
	}
	return nil
}

// step puts its faults in place, starts them together, and takes each back
// when its time is over. When one can't be injected, none is started.
func (r *run) step(ctx context.Context, faults []*active) error {
	err := parallel(faults, func(a *active) error { return a.inject(ctx, r.recorder(a)) })
	if err == nil {
		err = parallel(faults, (*active).start)
	}
	started := err == nil
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
	return errors.Join(err, reverted)
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

// recorder gives a fault the journal and the proof.
func (r *run) recorder(a *active) fault.Recorder {
	return recorder{r.journal.For(a.planned.spec.GetName()), &r.proof}
}

type recorder struct {
	journal.FaultJournal
	proof *proof
}

// Watch implements fault.Recorder.
func (r recorder) Watch(w fault.Watch) error { return r.proof.watch(w) }

// PinDir implements fault.Recorder.
func (r recorder) PinDir() string { return "" }

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
		if err := r.journal.WriteStatus(status); err != nil {
			r.engine.Log.Warn("status is not up to date", "error", err)
		}
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

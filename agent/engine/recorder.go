package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"faultline.dev/faultline/agent/guard"
	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/pin"
)

// recorder gives a fault the journal and the proof, and sees to it that a guard
// watches before anything is touched that would outlive this process.
type recorder struct {
	run    *run
	active *active
	fault  journal.FaultJournal
}

func (r *run) recorder(a *active) fault.Recorder {
	return recorder{r, a, r.journal.For(a.planned.spec.GetName())}
}

// Record implements fault.Recorder.
func (r recorder) Record(u fault.Undo) (fault.Undone, error) {
	if err := r.run.startGuard(); err != nil {
		return nil, err
	}
	return r.fault.Record(u)
}

// Watch implements fault.Recorder.
func (r recorder) Watch(w fault.Watch) error {
	if err := r.run.proof.watch(w); err != nil {
		return err
	}
	return r.run.save()
}

// PinDir implements fault.Recorder. The names in it are short and have no dots,
// which bpffs reserves.
func (r recorder) PinDir() string {
	if r.active.planned.spec.GetPersistence() != v1.Fault_PINNED {
		return ""
	}
	r.run.mu.Lock()
	defer r.run.mu.Unlock()
	return filepath.Join(pin.Root, r.run.id, strconv.Itoa(slices.Index(r.run.faults, r.active)))
}

// Commons implements fault.Recorder.
func (r recorder) Commons() *fault.Commons { return &r.run.commons }

var errGuardDied = errors.New("the guard process died, which takes faults back when this process can't; nothing goes on without it")

// startGuard starts the guard unless there is one.
func (r *run) startGuard() (err error) {
	r.guarding.Lock()
	defer r.guarding.Unlock()
	if r.guard != nil {
		return nil
	}
	if r.engine.Guard == nil {
		return fmt.Errorf("%w: this fault would outlive its process", guard.ErrNoGuard)
	}
	r.guard, err = guard.Start(r.engine.Guard(r.id, r.pinned()))
	failpoint.Hit(failpoint.GuardReady)
	return err
}

// tellGuard passes a lease on.
func (r *run) tellGuard(a *active, lease fault.Lease) error {
	r.guarding.Lock()
	defer r.guarding.Unlock()
	if r.guard == nil {
		return nil
	}
	return r.guard.Lease(a.planned.spec.GetName(), lease)
}

func (r *run) guardDied() bool {
	r.guarding.Lock()
	defer r.guarding.Unlock()
	if r.guard == nil {
		return false
	}
	select {
	case <-r.guard.Ended():
		return true
	default:
		return false
	}
}

// dismissGuard ends the guard; the run has let go of its journal.
func (r *run) dismissGuard() {
	r.guarding.Lock()
	defer r.guarding.Unlock()
	if r.guard != nil {
		r.guard.Dismiss()
	}
}

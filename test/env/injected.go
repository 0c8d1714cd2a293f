//go:build linux

package env

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// Injected is a fault that a test has begun without an engine.
type Injected struct {
	fault.Injection
	Plan     *fault.Plan
	Recorder *Recorder
	t        testing.TB
}

// Plan plans a fault that must be valid.
func Plan(t testing.TB, kind fault.Kind, spec *v1.Fault, log *slog.Logger, targets ...fault.Cgroup) (*fault.Plan, error) {
	t.Helper()
	if problems := kind.Validate(spec); len(problems) > 0 {
		t.Fatal(problems)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return kind.Plan(t.Context(), fault.Request{
		Spec:       spec,
		Cgroups:    targets,
		Observe:    spec.GetObserve(),
		Prober:     Prober(t),
		CgroupRoot: CgroupRoot(t),
		Log:        log,
	})
}

// Inject plans, injects and starts a fault as Begin does.
func Inject(t testing.TB, kind fault.Kind, spec *v1.Fault, log *slog.Logger, targets ...fault.Cgroup) *Injected {
	t.Helper()
	plan, err := Plan(t, kind, spec, log, targets...)
	if err != nil {
		t.Fatal(err)
	}
	return Begin(t, plan)
}

// Begin injects and starts a fault that was planned. It is taken back with the
// test at the latest.
func Begin(t testing.TB, plan *fault.Plan) *Injected {
	t.Helper()
	return BeginIn(t, nil, plan)
}

// BeginIn is Begin for a fault that is of one run with others; nil for a run of
// its own.
func BeginIn(t testing.TB, run *fault.Commons, plan *fault.Plan) *Injected {
	t.Helper()
	i := &Injected{Plan: plan, Recorder: &Recorder{Run: run}, t: t}
	var err error
	if i.Injection, err = plan.Inject(t.Context(), i.Recorder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.End)
	if err := i.Start(Lease(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return i
}

// Lease is one that ends that much later.
func Lease(d time.Duration) fault.Lease {
	return fault.Lease{Deadline: fault.BootTime() + uint64(d)}
}

// Count returns the counters.
func (i *Injected) Count() fault.Counters {
	i.t.Helper()
	counters, err := i.Counters()
	if err != nil {
		i.t.Fatal(err)
	}
	return counters
}

// End takes the fault back, and fails the test when anything is left.
func (i *Injected) End() {
	i.t.Helper()
	i.Recorder.TakeBack(i.t, i)
}

// FirstEvent waits for an event of an injection, and returns the oldest that it
// then has. Events come after their calls: a reader carries them.
func FirstEvent(t testing.TB, i fault.Injection) *v1.Event {
	t.Helper()
	var event *v1.Event
	if err := Within(10*time.Second, func() error {
		for _, event = range i.Events() {
			return nil
		}
		return errors.New("no event came")
	}); err != nil {
		t.Fatal(err)
	}
	return event
}

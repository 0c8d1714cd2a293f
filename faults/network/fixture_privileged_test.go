//go:build linux && privileged

package network_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) {
	env.MountBPF()
	workloads := env.Traffic()
	workloads["inject"] = inject
	env.Main(m, workloads)
}

const seed = 42

var errNotYet = errors.New("not yet")

// fixture is a target and a neighbour on one network.
type fixture struct {
	t                 *testing.T
	target, neighbour fault.Cgroup
	network           env.Network
	prober            *kernel.Prober
	exempt            []netip.AddrPort
	undos             *undoList
	pinDir            string
	watches           []watched
}

type watched struct {
	watch  fault.Watch
	before []string
}

// newFixture skips the test where the kernel lacks the mechanism, and fails it
// where the kernel is declared to have it. "auto" is what every kernel has one
// of.
func newFixture(t *testing.T, kind fault.Kind, mechanism string) *fixture {
	t.Helper()
	prober := kernel.NewProber(env.CgroupRoot(t), slog.New(slog.DiscardHandler))
	for _, m := range kind.Mechanisms {
		if m.Name != mechanism {
			continue
		}
		for _, capability := range m.Needs {
			if answer := prober.Probe(t.Context(), capability); !answer.OK() {
				kernels.Missing(t, string(capability), errors.New(answer.Reason))
			}
		}
	}
	return &fixture{
		t:         t,
		target:    env.Cgroup(t),
		neighbour: env.Cgroup(t),
		network:   env.NewNetwork(t),
		prober:    prober,
		undos:     &undoList{},
	}
}

func (f *fixture) plan(kind fault.Kind, spec *v1.Fault) (*fault.Plan, error) {
	if problems := kind.Validate(spec); len(problems) > 0 {
		f.t.Fatal(problems)
	}
	return kind.Plan(f.t.Context(), fault.Request{
		Spec:     spec,
		Cgroups:  []fault.Cgroup{f.target},
		Seed:     seed,
		Prober:   f.prober,
		Resolver: names{},
		Exempt:   f.exempt,
		Observe:  spec.GetObserve(),
		Log:      slog.New(slog.DiscardHandler),
	})
}

// inject plans, injects and starts a fault; it is taken back with the test at
// the latest.
func (f *fixture) inject(kind fault.Kind, spec *v1.Fault) fault.Injection {
	f.t.Helper()
	plan, err := f.plan(kind, spec)
	if err != nil {
		f.t.Fatal(err)
	}
	injection, err := plan.Inject(f.t.Context(), f)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { f.revert(injection) })
	if err := injection.Start(leaseOf(time.Minute)); err != nil {
		f.t.Fatal(err)
	}
	return injection
}

// revert takes the fault back and compares.
func (f *fixture) revert(injection fault.Injection) {
	f.t.Helper()
	if err := injection.Revert(context.Background()); err != nil {
		f.t.Error(err)
	}
	for _, w := range f.watches {
		after, err := w.watch.State()
		if errors.Is(err, fault.ErrGone) {
			continue // the test ended, and its processes with their namespace
		}
		if err != nil {
			f.t.Error(err)
		}
		if !slices.Equal(w.before, after) {
			f.t.Errorf("%s: before %q, after %q", w.watch.Key(), w.before, after)
		}
	}
	f.watches = nil
	if open := f.undos.open(); len(open) > 0 {
		f.t.Errorf("still to be undone: %q", open)
	}
}

// Record and Watch make the fixture a fault.Recorder in memory.
func (f *fixture) Record(undo fault.Undo) (fault.Undone, error) {
	return f.undos.add(undo), nil
}

func (f *fixture) Watch(watch fault.Watch) error {
	lines, err := watch.State()
	f.watches = append(f.watches, watched{watch, lines})
	return err
}

func (f *fixture) PinDir() string { return f.pinDir }

// undoList is a journal in memory.
type undoList struct {
	mu   sync.Mutex
	list []*openUndo
}

type openUndo struct {
	undo fault.Undo
	list *undoList
	done bool
}

func (l *undoList) add(undo fault.Undo) *openUndo {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &openUndo{undo: undo, list: l}
	l.list = append(l.list, o)
	return o
}

func (o *openUndo) Undo(ctx context.Context) error {
	if err := o.undo.Undo(ctx); err != nil {
		return err
	}
	o.list.mu.Lock()
	defer o.list.mu.Unlock()
	o.done = true
	return nil
}

func (l *undoList) open() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.list {
		if !o.done {
			list = append(list, o.undo.Describe())
		}
	}
	return list
}

// leaseOf ends that much later.
func leaseOf(d time.Duration) fault.Lease {
	return fault.Lease{Deadline: fault.BootTime() + uint64(d)}
}

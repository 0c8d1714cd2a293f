//go:build linux && privileged

package network_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

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
	workloads["timed-send"] = timedSend
	workloads["pour"] = pour
	workloads["unusual"] = unusual
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
	// run is what the faults have in common that are to be of one run; nil for
	// a run of each.
	run *fault.Commons
}

// newFixture skips the test where the kernel lacks the mechanism, and fails it
// where the kernel is declared to have it. "auto" is what every kernel has one
// of.
func newFixture(t *testing.T, kind fault.Kind, mechanism string) *fixture {
	t.Helper()
	f := &fixture{t: t, prober: env.Prober(t)}
	f.needs(kind, mechanism)
	f.target, f.neighbour, f.network = env.Cgroup(t), env.Cgroup(t), env.NewNetwork(t)
	return f
}

// needs skips the test where the kernel lacks another mechanism that it needs.
func (f *fixture) needs(kind fault.Kind, mechanism string) {
	f.t.Helper()
	for _, m := range kind.Mechanisms {
		if m.Name != mechanism {
			continue
		}
		for _, capability := range m.Needs {
			if answer := f.prober.Probe(f.t.Context(), capability); !answer.OK() {
				kernels.Missing(f.t, string(capability), errors.New(answer.Reason))
			}
		}
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
func (f *fixture) inject(kind fault.Kind, spec *v1.Fault) *env.Injected {
	f.t.Helper()
	plan, err := f.plan(kind, spec)
	if err != nil {
		f.t.Fatal(err)
	}
	return env.BeginIn(f.t, f.run, plan)
}

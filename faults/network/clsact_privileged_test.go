//go:build linux && privileged

package network_test

import (
	"strings"
	"testing"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// meddler does something just after a record is written, before what the
// record is about is done.
type meddler struct {
	*env.Recorder
	meddle func()
}

func (m meddler) Record(undo fault.Undo) (fault.Undone, error) {
	undone, err := m.Recorder.Record(undo)
	m.meddle()
	return undone, err
}

func (f *fixture) qdiscs() string {
	return f.network.A.Run("tc", "qdisc", "show", "dev", env.Veth)
}

// Somebody else makes a clsact between our look and ours: it is his.
func TestForeignClsactIsNeverRemoved(t *testing.T) {
	f := newFixture(t, network.Loss(), "cls_bpf")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 100)
	spec := lossOfUDP()
	spec.Mechanism = "cls_bpf"
	plan, err := f.plan(network.Loss(), spec)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	recorder := &env.Recorder{}
	injection, err := plan.Inject(t.Context(), meddler{recorder, func() {
		if !strings.Contains(f.qdiscs(), "clsact") {
			f.network.A.Run("tc", "qdisc", "add", "dev", env.Veth, "clsact")
			made++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if made == 0 {
		t.Fatal("the test shows nothing")
	}
	pair.Exchange()
	if err := injection.Revert(t.Context()); err != nil {
		t.Error(err)
	}
	if differences, err := recorder.Differences(); err != nil || len(differences) > 0 {
		t.Errorf("differences %q, %v", differences, err)
	}
	if qdiscs := f.qdiscs(); !strings.Contains(qdiscs, "clsact") {
		t.Errorf("the clsact is gone:\n%s", qdiscs)
	}
}

// What others claim by replacing it is theirs, and what they take away is no
// error.
func TestClsactThatOthersTake(t *testing.T) {
	for _, test := range []struct {
		verb  string
		stays bool
	}{{"replace", true}, {"del", false}} {
		t.Run(test.verb, func(t *testing.T) {
			f := newFixture(t, network.Loss(), "cls_bpf")
			env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 1)
			spec := lossOfUDP()
			spec.Mechanism = "cls_bpf"
			injection := f.inject(network.Loss(), spec)
			f.network.A.Run("tc", "qdisc", test.verb, "dev", env.Veth, "clsact")
			injection.Recorder.Forget()
			if err := injection.Revert(t.Context()); err != nil {
				t.Error(err)
			}
			qdiscs := f.qdiscs()
			if strings.Contains(qdiscs, "clsact") != test.stays {
				t.Errorf("after tc qdisc %s:\n%s", test.verb, qdiscs)
			}
		})
	}
}

// Of several faults at one interface the last takes the clsact away, whoever
// made it; none takes what the others do for its own.
func TestFaultsShareAnInterface(t *testing.T) {
	for _, mechanism := range []string{"cls_bpf", "tcx"} {
		for name, order := range map[string][2]int{"the first ends first": {0, 1}, "the first ends last": {1, 0}} {
			t.Run(mechanism+"/"+name, func(t *testing.T) {
				f := newFixture(t, network.Loss(), mechanism)
				pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 200)
				before := f.qdiscs()
				spec := lossOfUDP()
				spec.Mechanism = mechanism
				var injections [2]*env.Injected
				for i := range injections {
					injections[i] = f.inject(network.Loss(), spec)
				}
				for _, i := range order {
					pair.Exchange()
					if differences, err := injections[i].Recorder.Differences(); err != nil || len(differences) == 0 {
						t.Errorf("a fault that is on is not noticed (%v)", err)
					}
					injections[i].End()
				}
				env.Unchanged(t, before, f.qdiscs())
			})
		}
	}
}

//go:build linux && privileged

package network_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// lossOfUDP is 30 % loss of the datagrams to port 7000.
func lossOfUDP() *v1.Fault {
	return &v1.Fault{
		Filter: &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
		Fault:  &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: 30}},
	}
}

// lossOf injects, sends, and compares what was lost with the counters.
func (f *fixture) lossOf(pair env.UDPPair, spec *v1.Fault) []int {
	f.t.Helper()
	injection := f.inject(network.Loss(), spec)
	result, lost := pair.Exchange()
	if result.Errors != 0 {
		f.t.Errorf("%d of the sends failed: %s", result.Errors, result.First)
	}
	injection.End()
	f.counted(injection, fault.Counters{Matched: uint64(pair.Count), Injected: uint64(len(lost))})
	return lost
}

func (f *fixture) counted(injection fault.Injection, want fault.Counters) {
	f.t.Helper()
	got, err := injection.Counters()
	if err != nil {
		f.t.Fatal(err)
	}
	if got != want {
		f.t.Errorf("the kernel counted %+v, want %+v", got, want)
	}
}

// predicted are the ordinals that the seed chooses.
func predicted(spec *v1.Fault, count int) (lost []int) {
	config := dice.New(seed, spec)
	config.Lose(spec.GetNetworkLoss())
	sequence := dice.NewSequence(config)
	for i := range count {
		if sequence.Next() {
			lost = append(lost, i)
		}
	}
	return lost
}

func TestLossOnEgressIsExactAndSilent(t *testing.T) {
	const count = 10000
	for _, mechanism := range []string{"tcx", "cls_bpf"} {
		for name, address := range map[string]string{"ipv4": env.AddressB + ":7000", "ipv6": "[" + env.Address6B + "]:7000"} {
			t.Run(mechanism+"/"+name, func(t *testing.T) {
				f := newFixture(t, network.Loss(), mechanism)
				pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, address, count)
				if result, lost := pair.Exchange(); result.Errors != 0 || len(lost) != 0 {
					t.Fatalf("without a fault: %d errors, %d lost", result.Errors, len(lost))
				}
				spec := lossOfUDP()
				spec.Mechanism = mechanism
				first := f.lossOf(pair, spec)
				if second := f.lossOf(pair, spec); !slices.Equal(first, second) {
					t.Errorf("the same seed lost other packets: %d and %d", len(first), len(second))
				}
				if want := predicted(spec, count); !slices.Equal(first, want) {
					t.Errorf("lost %d packets, the seed says %d others", len(first), len(want))
				}
				if result, lost := pair.Exchange(); result.Errors != 0 || len(lost) != 0 {
					t.Errorf("after the revert: %d errors, %d lost", result.Errors, len(lost))
				}
			})
		}
	}
}

func TestLossOnIngressIsExact(t *testing.T) {
	f := newFixture(t, network.Loss(), "cgroup_skb")
	pair := env.NewUDPPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", 2000)
	spec := lossOfUDP()
	spec.Filter = &v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: []string{"7000"}}
	if lost, want := f.lossOf(pair, spec), predicted(spec, pair.Count); !slices.Equal(lost, want) {
		t.Errorf("lost %d packets, the seed says %d others", len(lost), len(want))
	}
}

func TestLossLeavesTheNeighbourAlone(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	address := env.AddressB + ":7000"
	neighbour := env.NewUDPPair(t, f.network, f.neighbour, f.neighbour, address, 2000)
	spec := lossOfUDP()
	spec.GetNetworkLoss().Percent = 100
	injection := f.inject(network.Loss(), spec)
	if result, lost := neighbour.Exchange(); result.Errors != 0 || len(lost) != 0 {
		t.Errorf("the neighbour had %d errors and lost %d", result.Errors, len(lost))
	}
	injection.End()
	f.counted(injection, fault.Counters{})
}

func TestLossReachesDescendants(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	child := env.Child(t, env.Child(t, f.target, "a"), "b")
	pair := env.NewUDPPair(t, f.network, child, f.neighbour, env.AddressB+":7000", 1000)
	if lost, want := f.lossOf(pair, lossOfUDP()), predicted(lossOfUDP(), pair.Count); !slices.Equal(lost, want) {
		t.Errorf("lost %d packets, the seed says %d others", len(lost), len(want))
	}
}

// Every model and rate must choose in the kernel what it chooses in Go.
func TestModelsAndRatesAreThoseOfTheSeed(t *testing.T) {
	loss := func(l *v1.NetworkLoss, r *v1.Rate) *v1.Fault {
		spec := lossOfUDP()
		spec.Fault, spec.Rate = &v1.Fault_NetworkLoss{NetworkLoss: l}, r
		return spec
	}
	all := &v1.NetworkLoss{Percent: 100}
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 3000)
	for name, spec := range map[string]*v1.Fault{
		"independent":     loss(&v1.NetworkLoss{Percent: 12.5}, nil),
		"everything":      loss(all, nil),
		"correlated":      loss(&v1.NetworkLoss{Percent: 20, Correlation: 75}, nil),
		"gilbert-elliott": loss(&v1.NetworkLoss{GilbertElliott: &v1.GilbertElliott{P: 2, R: 20}}, nil),
		"gilbert-elliott with loss in both states": loss(&v1.NetworkLoss{GilbertElliott: &v1.GilbertElliott{
			P: 5, R: 30, LossGood: proto.Float64(1), LossBad: proto.Float64(60)}}, nil),
		"probability":     loss(all, &v1.Rate{Probability: proto.Float64(0.25)}),
		"every":           loss(all, &v1.Rate{Every: proto.Uint64(7)}),
		"first":           loss(all, &v1.Rate{First: proto.Uint64(11)}),
		"skip":            loss(all, &v1.Rate{Skip: proto.Uint64(2500)}),
		"all of the rate": loss(&v1.NetworkLoss{Percent: 50}, &v1.Rate{Probability: proto.Float64(0.5), Every: proto.Uint64(3), Skip: proto.Uint64(100), First: proto.Uint64(80)}),
	} {
		t.Run(name, func(t *testing.T) {
			f.t = t
			lost, want := f.lossOf(pair, spec), predicted(spec, pair.Count)
			if !slices.Equal(lost, want) {
				t.Errorf("lost %d packets, the seed says %d others", len(lost), len(want))
			}
			if len(want) == 0 {
				t.Error("the test hits nothing")
			}
		})
	}
}

// A datagram that leaves in pieces is one event, and is lost as a whole.
func TestFragmentsAreLostTogether(t *testing.T) {
	for name, address := range map[string]string{"ipv4": env.AddressB + ":7000", "ipv6": "[" + env.Address6B + "]:7000"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, network.Loss(), "auto")
			var ready string
			receiver := env.Start(t, f.neighbour, f.network.B, "udp-receive", address)
			receiver.Read(&ready)
			sender := env.Start(t, f.target, f.network.A, "udp-send", address, "300", "4000")
			sender.Read(&ready)
			pair := env.UDPPair{Sender: sender, Receiver: receiver, Count: 300}
			if lost, want := f.lossOf(pair, lossOfUDP()), predicted(lossOfUDP(), pair.Count); !slices.Equal(lost, want) {
				t.Errorf("lost %d datagrams, the seed says %d others", len(lost), len(want))
			}
		})
	}
}

func TestObserveCountsAndLosesNothing(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 1000)
	spec := lossOfUDP()
	spec.Observe = true
	injection := f.inject(network.Loss(), spec)
	if result, lost := pair.Exchange(); result.Errors != 0 || len(lost) != 0 {
		t.Errorf("%d errors, %d lost", result.Errors, len(lost))
	}
	injection.End()
	f.counted(injection, fault.Counters{Matched: 1000, Injected: uint64(len(predicted(spec, 1000)))})
}

func TestLeaseEndsTheFaultByItself(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 100)
	spec := lossOfUDP()
	spec.GetNetworkLoss().Percent = 100
	injection := f.inject(network.Loss(), spec)
	if _, lost := pair.Exchange(); len(lost) != pair.Count {
		t.Fatalf("lost %d of %d", len(lost), pair.Count)
	}
	if err := injection.Renew(env.Lease(0)); err != nil {
		t.Fatal(err)
	}
	// Everything is still attached, and idle.
	if result, lost := pair.Exchange(); result.Errors != 0 || len(lost) != 0 {
		t.Errorf("after the lease: %d errors, %d lost", result.Errors, len(lost))
	}
	injection.End()
	f.counted(injection, fault.Counters{Matched: 100, Injected: 100})
}

func TestPulseSwitchesTheFaultOff(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 100)
	spec := lossOfUDP()
	spec.GetNetworkLoss().Percent = 100
	spec.Pulse = &v1.Pulse{On: durationpb.New(time.Second), Off: durationpb.New(time.Second)}
	f.inject(network.Loss(), spec)
	var whole, none bool
	err := env.Within(30*time.Second, func() error {
		_, lost := pair.Exchange()
		whole, none = whole || len(lost) == pair.Count, none || len(lost) == 0
		if whole && none {
			return nil
		}
		return errNotYet
	})
	if err != nil {
		t.Errorf("saw the fault on: %v, off: %v", whole, none)
	}
}

func TestRampBeginsWithLittle(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 500)
	spec := lossOfUDP()
	spec.GetNetworkLoss().Percent = 100
	spec.RampUp = durationpb.New(8 * time.Second)
	f.inject(network.Loss(), spec)
	before := -1
	err := env.Within(60*time.Second, func() error {
		_, lost := pair.Exchange()
		if before < 0 && len(lost) == pair.Count {
			t.Errorf("the ramp began with everything")
		}
		// 500 throws vary by less than 15 % of 500 from one time to the next.
		if len(lost) < before-75 {
			t.Errorf("the ramp went down from %d to %d", before, len(lost))
		}
		before = len(lost)
		if before == pair.Count {
			return nil
		}
		return errNotYet
	})
	if err != nil {
		t.Errorf("the ramp ended at %d of %d", before, pair.Count)
	}
}

func TestEventsTellWhatWasLost(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 100)
	injection := f.inject(network.Loss(), lossOfUDP())
	pair.Exchange()
	e := env.FirstEvent(t, injection)
	if e.GetWhat() != "egress" || e.GetPeer() != env.AddressB+":7000" || e.GetProtocol() != "UDP" || e.GetCgroupId() != f.target.ID {
		t.Errorf("event %v", e)
	}
	if age := time.Since(e.GetTime().AsTime()); age < 0 || age > time.Minute {
		t.Errorf("the event is %s old", age)
	}
}

// A chosen packet that leaves by an interface without the program gets away,
// and is counted as missed, until the interface is found.
func TestNewInterfacesAreFound(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	spec := lossOfUDP()
	spec.GetNetworkLoss().Percent = 100
	// The target has no process yet, so there is nowhere to attach to.
	injection := f.inject(network.Loss(), spec)
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 200)
	if _, lost := pair.Exchange(); len(lost) != 0 {
		t.Errorf("lost %d packets without a program", len(lost))
	}
	f.counted(injection, fault.Counters{Matched: 200, Missed: 200})
	if err := injection.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, lost := pair.Exchange(); len(lost) != pair.Count {
		t.Errorf("lost %d of %d", len(lost), pair.Count)
	}
	f.counted(injection, fault.Counters{Matched: 400, Injected: 200, Missed: 200})
}

// TCP must take the loss for that of a network: it sends again and gets
// through.
func TestTCPGetsThroughLoss(t *testing.T) {
	f := newFixture(t, network.Loss(), "auto")
	pair := env.NewTCPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7001", time.Minute)
	if result := pair.Try("dial"); result.Error != "" {
		t.Fatal(result.Error)
	}
	// A megabyte can leave in 16 packets, so that a share of them may be none.
	injection := f.inject(network.Loss(), &v1.Fault{
		Filter: &v1.Filter{Ports: []string{"7001"}, Protocol: v1.Filter_TCP},
		Rate:   &v1.Rate{Every: proto.Uint64(5)},
		Fault:  &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: 100}},
	})
	result := pair.Try("send")
	if result.Error != "" {
		t.Errorf("the client did not get through: %s", result.Error)
	}
	if result.Retransmits == 0 {
		t.Error("TCP sent nothing again")
	}
	counters, err := injection.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if counters.Injected == 0 || counters.Missed != 0 {
		t.Errorf("counters %+v", counters)
	}
}

// What others have on the interface stays as it is.
func TestForeignFiltersAreLeftAlone(t *testing.T) {
	f := newFixture(t, network.Loss(), "cls_bpf")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 500)
	f.network.A.Run("tc", "qdisc", "add", "dev", env.Veth, "clsact")
	f.network.A.Run("tc", "filter", "add", "dev", env.Veth, "egress", "prio", "1", "protocol", "ip", "u32", "match", "u32", "0", "0", "classid", "1:1")
	before := f.network.A.Run("tc", "filter", "show", "dev", env.Veth, "egress")
	spec := lossOfUDP()
	spec.Mechanism = "cls_bpf"
	injection := f.inject(network.Loss(), spec)
	pair.Exchange()
	injection.End()
	env.Unchanged(t, before, f.network.A.Run("tc", "filter", "show", "dev", env.Veth, "egress"))
	if qdiscs := f.network.A.Run("tc", "qdisc", "show", "dev", env.Veth); !strings.Contains(qdiscs, "clsact") {
		t.Errorf("clsact is gone:\n%s", qdiscs)
	}
}

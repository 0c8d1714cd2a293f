//go:build linux && privileged

package network_test

import (
	"slices"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// twice duplicates some of the datagrams to port 7000.
func twice(percent, correlation float64) *v1.Fault {
	return &v1.Fault{
		Filter: &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
		Fault:  &v1.Fault_NetworkDuplicate{NetworkDuplicate: &v1.NetworkDuplicate{Percent: percent, Correlation: correlation}},
	}
}

// Those packets come twice that the seed says, the others once, and nobody
// else's do.
func TestDuplicatesAreThoseOfTheSeed(t *testing.T) {
	const count = 2000
	for _, mechanism := range []string{"tcx", "cls_bpf"} {
		for name, to := range map[string]string{"ipv4": env.AddressB, "ipv6": "[" + env.Address6B + "]"} {
			t.Run(mechanism+"/"+name, func(t *testing.T) {
				f := newFixture(t, network.Duplicate(), mechanism)
				pair := env.NewDelayPair(t, f.network, f.target, f.neighbour, to+":7000", count, 100*time.Microsecond)
				other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, to+":7001", count, 100*time.Microsecond)
				spec := twice(30, 25)
				spec.Mechanism = mechanism
				injection := f.inject(network.Duplicate(), spec)
				_, theirs := other.Exchange(0)
				sent, arrivals := pair.Exchange(0)
				injection.End()
				if sent.Errors > 0 {
					t.Errorf("%d of the sends failed: %s", sent.Errors, sent.First)
				}
				want := duplicated(spec, count)
				if got := doubles(t, arrivals, count); !slices.Equal(got, want) {
					t.Errorf("%d packets came twice, the seed says %d others", len(got), len(want))
				}
				if got := doubles(t, theirs, count); len(got) > 0 {
					t.Errorf("%d packets of the neighbour came twice", len(got))
				}
				f.counted(injection, fault.Counters{Matched: count, Injected: uint64(len(want))})
			})
		}
	}
}

// duplicated are the ordinals that the seed chooses.
func duplicated(spec *v1.Fault, count int) (list []int) {
	config := dice.New(seed, spec)
	config.Share(spec.GetNetworkDuplicate())
	sequence := dice.NewSequence(config)
	for i := range count {
		if sequence.Next() {
			list = append(list, i)
		}
	}
	return list
}

// doubles are the numbers that came twice; each other one has to come once.
func doubles(t *testing.T, arrivals []env.Arrival, count int) (list []int) {
	t.Helper()
	times := make([]int, count)
	for _, a := range arrivals {
		times[a.Number]++
	}
	for number, n := range times {
		switch n {
		case 1:
		case 2:
			list = append(list, number)
		default:
			t.Errorf("packet %d came %d times", number, n)
		}
	}
	return list
}

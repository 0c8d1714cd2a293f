//go:build linux && privileged

package network_test

import (
	"slices"
	"testing"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// receivedDamaged flips a bit in some of the packets that the target receives at the ports 7000
// to 7009.
func receivedDamaged(percent float64, checksum v1.NetworkCorrupt_Checksum) *v1.Fault {
	spec := damaged(percent, checksum)
	spec.Filter = &v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: []string{"7000-7009"}}
	return spec
}

// Of the packets that the target receives those are damaged that the seed says,
// and in the bit that it says: it gets them when the checksum is right, and its
// kernel drops and counts them when it is wrong.
func TestReceivedDamageIsThatOfTheSeed(t *testing.T) {
	const rounds = 8
	// Fragments are not hit.
	whole := sizes[:slices.Index(sizes, 1472)]
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "ifb")
			between := func(from, to *env.Namespace, receiver fault.Cgroup, address string) env.ContentPair {
				return env.NewContentPair(t, from, to, f.neighbour, receiver, address, rounds*len(whole), whole...)
			}
			a, b := f.network.A, f.network.B
			other := between(a, b, f.neighbour, env.AddressB+":7003")
			routes := []struct {
				name string
				pair env.ContentPair
			}{
				{"IPv4", between(a, b, f.target, env.AddressB+":7000")},
				{"IPv6", between(a, b, f.target, "["+env.Address6B+"]:7001")},
				{"loopback", between(b, b, f.target, "127.0.0.1:7002")},
				// The sender makes the checksums of these.
				{"IPv4 without offload", between(a, b, f.target, env.AddressB+":7005")},
				{"IPv6 without offload", between(a, b, f.target, "["+env.Address6B+"]:7006")},
			}
			tc := f.tcState()
			spec := receivedDamaged(30, checksum)
			injection := f.inject(network.Corrupt(), spec)
			if _, came := other.Exchange(); !equal(came, other.Sent()) {
				t.Error("the neighbour's packets are not as they were sent")
			}
			seed := newDamage(spec)
			for i, r := range routes {
				if i == 3 {
					a.NoChecksumOffload()
				}
				before := countSumErrors(b)
				want, hits := seed.of(r.pair.Sent(), checksum)
				_, came := r.pair.Exchange()
				compare(t, r.name, came, want)
				if checksum == v1.NetworkCorrupt_RIGHT {
					hits = 0
				}
				if errors := countSumErrors(b) - before; errors != hits {
					t.Errorf("%s: %d packets with a wrong checksum, want %d", r.name, errors, hits)
				}
			}
			injection.End()
			f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
			f.unchanged(tc)
		})
	}
}

// A stream comes through whole where the checksum gives the damage away, with as
// many wrong bits as packets were hit where it does not, also when they come in as
// large segments (TSO, GRO), of which a wrong checksum takes the first part away.
func TestReceivedStreamIsDamagedOrSentAgain(t *testing.T) {
	const size = 2 << 20
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "ifb")
			for _, address := range []string{env.AddressB + ":7000", "[" + env.Address6B + "]:7001"} {
				offload := address == env.AddressB+":7000"
				if !offload {
					// The receiver looks at the checksum of each.
					f.network.A.NoChecksumOffload()
				}
				injection, errors := f.streamFrom(f.neighbour, f.target, address, size, receivedDamaged(5, checksum))
				counters := injection.Count()
				hits := int(counters.Injected)
				t.Logf("%s: counted %+v, %+v", address, counters, errors)
				if hits == 0 || counters.Missed > 0 {
					t.Errorf("%s: the kernel counted %+v", address, counters)
				}
				switch {
				case checksum == v1.NetworkCorrupt_RIGHT:
					if !errors.are(damages{flipped: hits}) {
						t.Errorf("%s: %+v, want %d bits flipped", address, errors, hits)
					}
				case offload:
					// What is missing was sent again: a part of each, and not all.
					if errors.sumErrors > hits || errors.flipped > 0 || errors.again < hits/2 || errors.again > 8*hits {
						t.Errorf("%s: %+v of %d that were hit", address, errors, hits)
					}
				case !errors.are(damages{sumErrors: hits}):
					t.Errorf("%s: %+v, want %d wrong checksums", address, errors, hits)
				}
			}
		})
	}
}

// Damaged packets wait and come twice as whole ones do, damaged both times.
func TestReceivedDamageOfWhatIsHeldAndDoubled(t *testing.T) {
	const rounds = 8
	f := newFixture(t, network.Corrupt(), "ifb")
	whole := sizes[:slices.Index(sizes, 1472)]
	pair := env.NewContentPair(t, f.network.A, f.network.B, f.neighbour, f.target, env.AddressB+":7000", rounds*len(whole), whole...)
	tc := f.tcState()
	f.run = &fault.Commons{}
	doubling := receiving(twice(100, 0))
	double := f.inject(network.Duplicate(), doubling)
	spec := receivedDamaged(30, v1.NetworkCorrupt_RIGHT)
	injection := f.inject(network.Corrupt(), spec)
	seed := newDamage(spec)
	want, _ := seed.of(pair.Sent(), v1.NetworkCorrupt_RIGHT)
	_, came := pair.Exchange()
	compare(t, "RIGHT", came, doubled(want))
	injection.End()
	double.End()
	f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
	f.unchanged(tc)
}

//go:build linux && privileged

package network_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// late is a delay of the datagrams to port 7000.
func late(delay time.Duration) *v1.Fault {
	return &v1.Fault{
		Filter: &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
		Fault:  &v1.Fault_NetworkLatency{NetworkLatency: &v1.NetworkLatency{Delay: durationpb.New(delay)}},
	}
}

// Every packet of the target comes later by the delay, none before its time;
// those of the neighbour on the same interface, to the same peer, do not.
func TestLatencyIsTheTargetsAlone(t *testing.T) {
	const (
		count = 1000
		delay = 50 * time.Millisecond
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		for name, to := range map[string]string{"ipv4": env.AddressB, "ipv6": "[" + env.Address6B + "]"} {
			t.Run(mechanism+"/"+name, func(t *testing.T) {
				f := newFixture(t, network.Latency(), mechanism)
				target := env.NewDelayPair(t, f.network, f.target, f.neighbour, to+":7000", count, 2*time.Millisecond)
				other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, to+":7001", count, 2*time.Millisecond)
				exchange := func() (mine, theirs []time.Duration) {
					target.Begin(delay)
					other.Begin(delay)
					for i, pair := range []env.DelayPair{target, other} {
						sent, arrivals := pair.End()
						if sent.Errors > 0 || len(arrivals) != count {
							t.Errorf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
						}
						if i == 0 {
							mine = env.Took(arrivals)
						} else {
							theirs = env.Took(arrivals)
						}
					}
					return mine, theirs
				}
				before, otherBefore := exchange()
				spec := late(delay)
				spec.Mechanism = mechanism
				injection := f.inject(network.Latency(), spec)
				during, otherDuring := exchange()
				injection.End()
				f.counted(injection, fault.Counters{Matched: count, Injected: count})
				if least := env.Quantile(during, 0); least < delay {
					t.Errorf("a packet came after %s", least)
				}
				for _, q := range []float64{0.5, 0.99} {
					t.Logf("p%v: %s before, %s during; the neighbour's %s and %s", 100*q,
						env.Quantile(before, q), env.Quantile(during, q), env.Quantile(otherBefore, q), env.Quantile(otherDuring, q))
				}
				if most := env.Quantile(otherDuring, 0.5); most >= delay/2 {
					t.Errorf("half of the neighbour's packets took %s and longer", most)
				}
			})
		}
	}
}

// Each packet is late by what the seed says, whatever else hits the same
// packets in the run: what is lost never comes, and the rest is held.
func TestLatencyAndLossShareTheirPackets(t *testing.T) {
	const count = 2000
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Latency(), mechanism)
			pair := env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, time.Millisecond)
			spec := late(60 * time.Millisecond)
			spec.Mechanism = mechanism
			latency := spec.GetNetworkLatency()
			latency.Jitter, latency.Distribution = durationpb.New(15*time.Millisecond), v1.Distribution_NORMAL
			loss := lossOfUDP()
			f.run = &fault.Commons{}
			lossy := f.inject(network.Loss(), loss)
			held := f.inject(network.Latency(), spec)
			sent, arrivals := pair.Exchange(200 * time.Millisecond)
			held.End()
			lossy.End()
			if sent.Errors > 0 {
				t.Errorf("%d of the sends failed: %s", sent.Errors, sent.First)
			}
			lost := predicted(loss, count)
			f.counted(lossy, fault.Counters{Matched: count, Injected: uint64(len(lost))})
			rest := uint64(count - len(lost))
			f.counted(held, fault.Counters{Matched: rest, Injected: rest})
			if uint64(len(arrivals)) != rest {
				t.Errorf("%d packets came of %d, of which %d were to be lost", len(arrivals), count, len(lost))
			}
			f.late(arrivals, latency, lost)
		})
	}
}

// A pinned delay goes on without its process and is taken over, queue and all.
func TestPinnedLatencyIsAdopted(t *testing.T) {
	const (
		count = 100
		delay = 100 * time.Millisecond
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			p := newPinned(t, network.Latency(), late(delay), mechanism)
			pair := env.NewDelayPair(t, p.network, p.target, p.neighbour, env.AddressB+":7000", count, time.Millisecond)
			before := p.network.A.Run("tc", "-d", "qdisc", "show")
			least := func(when string) time.Duration {
				sent, arrivals := pair.Exchange(delay)
				if sent.Errors > 0 || len(arrivals) != count {
					t.Fatalf("%s: %d errors, %d came of %d", when, sent.Errors, len(arrivals), count)
				}
				return env.Quantile(env.Took(arrivals), 0)
			}
			p.begin(10 * time.Minute)
			p.process.Kill()
			if took := least("without a process"); took < delay {
				t.Errorf("without a process a packet came after %s", took)
			}
			injection := p.mustAdopt()
			if err := errors.Join(injection.Renew(env.Lease(10*time.Minute)), injection.Refresh(t.Context())); err != nil {
				t.Error(err)
			}
			if took := least("taken over"); took < delay {
				t.Errorf("taken over, a packet came after %s", took)
			}
			p.counted(injection, fault.Counters{Matched: 2 * count, Injected: 2 * count})
			if err := injection.Revert(t.Context()); err != nil {
				t.Error(err)
			}
			p.nothingLeft()
			env.Unchanged(t, before, p.network.A.Run("tc", "-d", "qdisc", "show"))
		})
	}
}

// late compares with the delays that the seed says.
func (f *fixture) late(arrivals []env.Arrival, latency *v1.NetworkLatency, lost []int) {
	f.t.Helper()
	delay, err := dice.NewDelay(seed, latency)
	if err != nil {
		f.t.Fatal(err)
	}
	var state dice.DelayState
	want := map[int]time.Duration{}
	ordinal := uint64(0)
	for number := range slices.Max(numbers(arrivals)) + 1 {
		if _, gone := slices.BinarySearch(lost, number); !gone {
			want[number] = delay.Draw(ordinal, &state)
			ordinal++
		}
	}
	var errs []time.Duration
	for _, a := range arrivals {
		if a.Took < want[a.Number] {
			f.t.Fatalf("packet %d came after %s, and was to be held for %s", a.Number, a.Took, want[a.Number])
		}
		errs = append(errs, a.Took-want[a.Number])
	}
	f.t.Logf("later than drawn: p50 %s, p99 %s", env.Quantile(errs, 0.5), env.Quantile(errs, 0.99))
	if half := env.Quantile(errs, 0.5); half > latency.GetJitter().AsDuration() {
		f.t.Errorf("half of the packets came %s and more after they were to be sent off", half)
	}
}

func numbers(arrivals []env.Arrival) (list []int) {
	for _, a := range arrivals {
		list = append(list, a.Number)
	}
	return list
}

//go:build linux && privileged

package network_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// receiving turns a fault to what comes in at ports 7000 and 7001.
func receiving(spec *v1.Fault) *v1.Fault {
	spec.Filter = &v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: []string{"7000-7001"}, Protocol: v1.Filter_UDP}
	return spec
}

// tcState is what tc and ip say of both namespaces.
func (f *fixture) tcState() string {
	var b strings.Builder
	for _, ns := range []*env.Namespace{f.network.A, f.network.B} {
		b.WriteString(ns.Run("tc", "-d", "qdisc", "show"))
		b.WriteString(ns.Run("ip", "-d", "-o", "link", "show"))
		for _, side := range []string{"ingress", "egress"} {
			b.WriteString(ns.Run("tc", "filter", "show", "dev", env.Veth, side))
		}
	}
	return b.String()
}

// unchanged fails the test when something is left.
func (f *fixture) unchanged(before string) {
	f.t.Helper()
	env.Unchanged(f.t, before, f.tcState())
}

// What the target receives comes later by what the seed says, never before;
// what comes to its neighbour by the same interface does not, whether it is
// there from the beginning or the namespace was the target's alone.
func TestReceivedPacketsAreLateByTheSeed(t *testing.T) {
	const (
		count = 300
		delay = 60 * time.Millisecond
	)
	for name, to := range map[string]string{"ipv4": env.AddressB, "ipv6": "[" + env.Address6B + "]"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, network.Latency(), "ifb")
			pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, to+":7000", count, time.Millisecond)
			before := f.tcState()
			spec := receiving(late(delay))
			latency := spec.GetNetworkLatency()
			latency.Jitter, latency.Distribution = durationpb.New(15*time.Millisecond), v1.Distribution_NORMAL

			held := f.inject(network.Latency(), spec)
			sent, arrivals := pair.Exchange(2 * delay)
			if sent.Errors > 0 || len(arrivals) != count {
				t.Errorf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
			}
			f.late(arrivals, latency, nil)
			f.counted(held, fault.Counters{Matched: count, Injected: count})

			other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, to+":7001", count, time.Millisecond)
			if err := held.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			pair.Begin(2 * delay)
			_, theirs := other.Exchange(0)
			if _, arrivals := pair.End(); len(arrivals) != count || env.Quantile(env.Took(arrivals), 0) == 0 {
				t.Errorf("%d came of %d", len(arrivals), count)
			} else if least := env.Quantile(env.Took(arrivals), 0.5); least < delay-latency.GetJitter().AsDuration() {
				t.Errorf("beside the neighbour, half of the packets came after %s", least)
			}
			f.counted(held, fault.Counters{Matched: 2 * count, Injected: 2 * count})
			if most := env.Quantile(env.Took(theirs), 0.5); len(theirs) != count || most >= delay/2 {
				t.Errorf("%d of the neighbour's packets came, half of them took %s and longer", len(theirs), most)
			}
			event := env.FirstEvent(t, held)
			if event.GetWhat() != "ingress" || !strings.HasSuffix(event.GetLocal(), ":7000") {
				t.Errorf("event %v", event)
			}
			held.End()
			f.unchanged(before)
		})
	}
}

// A packet that the target sends to itself waits at both ends, and is counted
// at both, whatever holds it at the first.
func TestBothDirectionsAreTwoDelays(t *testing.T) {
	const (
		count = 100
		delay = 50 * time.Millisecond
	)
	for mechanism, full := range map[string][]string{
		"auto":  {"tcx_fq+ifb", "cls_bpf_fq+ifb"},
		"netem": {"netem+ifb"},
	} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Latency(), "ifb")
			f.needs(network.Latency(), mechanism)
			pair := env.NewDelayPair(t, f.network, f.target, f.target, env.AddressB+":7000", count, time.Millisecond)
			local := env.NewDelayPair(t, env.Network{A: f.network.A, B: f.network.A}, f.target, f.target, "127.0.0.1:7001", count, time.Millisecond)
			before := f.tcState()
			spec := late(delay)
			spec.Mechanism = mechanism
			spec.Filter = &v1.Filter{Direction: v1.Filter_BOTH, Protocol: v1.Filter_UDP}
			both := f.inject(network.Latency(), spec)
			if m := both.Plan.Mechanism; !slices.Contains(full, m) {
				t.Errorf("mechanism %s", m)
			}
			for name, one := range map[string]env.DelayPair{"veth": pair, "lo": local} {
				sent, arrivals := one.Exchange(2 * delay)
				if sent.Errors > 0 || len(arrivals) != count {
					t.Errorf("%s: %d came of %d, %d errors: %s", name, len(arrivals), count, sent.Errors, sent.First)
					continue
				}
				took := env.Took(arrivals)
				t.Logf("%s: least %s, half %s", name, env.Quantile(took, 0), env.Quantile(took, 0.5))
				if least := env.Quantile(took, 0); least < 2*delay {
					t.Errorf("%s: a packet came after %s", name, least)
				}
			}
			both.End()
			f.counted(both, fault.Counters{Matched: 4 * count, Injected: 4 * count})
			f.unchanged(before)
		})
	}
}

// All that a run does with received packets it does with each at once: what is
// held comes later, what comes twice does so twice, and what is lost is lost after that.
func TestReceivedPacketsAreHitByAllFaults(t *testing.T) {
	const (
		count = 300
		delay = 60 * time.Millisecond
	)
	f := newFixture(t, network.Latency(), "ifb")
	pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, time.Millisecond)
	// Another run hits what comes to another port of the same interface.
	other := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":8000", count, time.Millisecond)
	before := f.tcState()
	foreign := late(delay / 2)
	foreign.Filter = &v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: []string{"8000"}, Protocol: v1.Filter_UDP}
	apart := f.inject(network.Latency(), foreign)

	f.run = &fault.Commons{}
	spec := receiving(late(delay))
	doubled := receiving(twice(30, 0))
	loss := receiving(lossOfUDP())
	held := f.inject(network.Latency(), spec)
	double := f.inject(network.Duplicate(), doubled)
	lossy := f.inject(network.Loss(), loss)

	twins := duplicated(doubled, count)
	total := count + len(twins)
	lost := len(predicted(loss, total))
	other.Begin(delay)
	sent, arrivals := pair.Exchange(delay)
	_, theirs := other.End()
	if sent.Errors > 0 || len(arrivals) != total-lost {
		t.Errorf("%d came of %d, %d doubled, %d lost; %d errors: %s", len(arrivals), count, len(twins), lost, sent.Errors, sent.First)
	}
	if least := env.Quantile(env.Took(arrivals), 0); least < delay {
		t.Errorf("a packet came after %s", least)
	}
	if least := env.Quantile(env.Took(theirs), 0); len(theirs) != count || least < delay/2 {
		t.Errorf("%d of the other run's packets came, one after %s", len(theirs), least)
	}
	f.counted(apart, fault.Counters{Matched: count, Injected: count})
	f.counted(held, fault.Counters{Matched: count, Injected: count})
	f.counted(double, fault.Counters{Matched: count, Injected: uint64(len(twins))})
	f.counted(lossy, fault.Counters{Matched: uint64(total), Injected: uint64(lost)})

	// Each ends by itself: what remains goes on.
	lossy.End()
	held.End()
	_, arrivals = pair.Exchange(0)
	if got := len(doubles(t, arrivals, count)); got == 0 || got == count {
		t.Errorf("%d packets came twice", got)
	}
	if half := env.Quantile(env.Took(arrivals), 0.5); half >= delay {
		t.Errorf("half of the packets still took %s and longer", half)
	}
	double.End()
	apart.End()
	f.unchanged(before)
}

// Those packets come twice that the seed says.
func TestReceivedDuplicatesAreThoseOfTheSeed(t *testing.T) {
	const count = 500
	f := newFixture(t, network.Duplicate(), "ifb")
	pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, 100*time.Microsecond)
	other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, env.AddressB+":7001", count, 100*time.Microsecond)
	before := f.tcState()
	spec := receiving(twice(30, 25))
	double := f.inject(network.Duplicate(), spec)
	_, theirs := other.Exchange(0)
	_, arrivals := pair.Exchange(0)
	want := duplicated(spec, count)
	if got := doubles(t, arrivals, count); !slices.Equal(got, want) {
		t.Errorf("%d packets came twice, the seed says %d others", len(got), len(want))
	}
	if got := doubles(t, theirs, count); len(got) > 0 {
		t.Errorf("%d packets of the neighbour came twice", len(got))
	}
	// Without a lease everything is still attached, and idle.
	if err := double.Renew(env.Lease(0)); err != nil {
		t.Fatal(err)
	}
	_, arrivals = pair.Exchange(0)
	if got := doubles(t, arrivals, count); len(got) > 0 {
		t.Errorf("without a lease %d packets came twice", len(got))
	}
	double.End()
	f.counted(double, fault.Counters{Matched: count, Injected: uint64(len(want))})
	f.unchanged(before)

	spec.Observe = true
	observed := f.inject(network.Duplicate(), spec)
	_, arrivals = pair.Exchange(0)
	if got := doubles(t, arrivals, count); len(got) > 0 {
		t.Errorf("with observe %d packets came twice", len(got))
	}
	observed.End()
	f.counted(observed, fault.Counters{Matched: count, Injected: uint64(len(want))})
	f.unchanged(before)
}

// What comes in gets through at the rate and no faster; what would have to wait
// too long is lost.
func TestReceivedBandwidthIsTheRate(t *testing.T) {
	const (
		rate    = 4_000_000
		burst   = 16 << 10
		size    = 972
		headers = 28  // IPv4, UDP
		count   = 400 // 0.8 s
		many    = 2000
	)
	f := newFixture(t, network.Bandwidth(), "ifb")
	pair := env.NewSizedDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, time.Nanosecond, size)
	flood := env.NewSizedDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7001", many, time.Nanosecond, size)
	before := f.tcState()
	limit := f.inject(network.Bandwidth(), receiving(&v1.Fault{
		Fault: &v1.Fault_NetworkBandwidth{NetworkBandwidth: &v1.NetworkBandwidth{Rate: rate, Burst: burst}},
	}))
	// A machine that stands still for a while receives less; never more.
	var ratio float64
	matched := uint64(0)
	for try := 1; try <= 5 && ratio < 0.97; try++ {
		sent, arrivals := pair.Exchange(time.Second)
		if sent.Errors > 0 || len(arrivals) != count {
			t.Fatalf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
		}
		matched += count
		// From the moment at which the first was sent: none can have come before. What
		// the burst lets through at once is not part of the rate, and the last one
		// comes when those before it are paid for.
		last := arrivals[count-1]
		took := last.At - (arrivals[0].At - arrivals[0].Took)
		ratio = float64((count-1)*(size+headers)-burst) * 8 / took.Seconds() / rate
		t.Logf("%.3f of the rate", ratio)
		if ratio > 1.001 {
			t.Errorf("the rate is %.3f of what was asked for", ratio)
		}
	}
	if ratio < 0.97 {
		t.Errorf("the rate is only %.3f of what was asked for", ratio)
	}
	sent, arrivals := flood.Exchange(2 * time.Second)
	counters := limit.Count()
	t.Logf("of %d that were sent at once %d came: %+v", many, len(arrivals), counters)
	if sent.Errors > 0 || len(arrivals) == many || env.Quantile(env.Took(arrivals), 1) > 5*time.Second {
		t.Errorf("%d came of %d, the last after %s", len(arrivals), many, env.Quantile(env.Took(arrivals), 1))
	}
	if counters.Matched != matched+many || counters.Missed != 0 || counters.Injected < uint64(many-len(arrivals)) {
		t.Errorf("counted %+v of %d packets", counters, matched+many)
	}
	limit.End()
	f.unchanged(before)
}

// A target that has no process yet gets its device as soon as it has one.
func TestReceivedPacketsOfNewInterfaces(t *testing.T) {
	const (
		count = 50
		delay = 100 * time.Millisecond
	)
	f := newFixture(t, network.Latency(), "ifb")
	held := f.inject(network.Latency(), receiving(late(delay)))
	pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, time.Millisecond)
	least := func() time.Duration {
		t.Helper()
		if err := held.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		sent, arrivals := pair.Exchange(2 * delay)
		if sent.Errors > 0 || len(arrivals) != count {
			t.Fatalf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
		}
		return env.Quantile(env.Took(arrivals), 0)
	}
	if took := least(); took < delay {
		t.Errorf("a packet came after %s", took)
	}
	// The interface goes, and another one comes.
	f.network.A.Run("ip", "link", "delete", env.Veth)
	f.network.Link()
	if took := least(); took < delay {
		t.Errorf("by a new interface a packet came after %s", took)
	}
	held.End()
	f.counted(held, fault.Counters{Matched: 2 * count, Injected: 2 * count})
}

// What is not built or makes no sense is refused by name.
func TestPlansOfReceivedPackets(t *testing.T) {
	f := newFixture(t, network.Latency(), "ifb")
	env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", 1, time.Millisecond)
	for name, test := range map[string]struct {
		change func(*v1.Fault)
		want   string
		is     error
	}{
		"pinned":           {func(s *v1.Fault) { s.Persistence = v1.Fault_PINNED }, "persistence PINNED of networkLatency of received packets", fault.ErrNotBuilt},
		"for sent packets": {func(s *v1.Fault) { s.Mechanism = "cls_bpf_fq" }, "mechanism cls_bpf_fq is for sent packets", nil},
		"for received ones": {func(s *v1.Fault) {
			s.Mechanism, s.Filter.Direction = "ifb", v1.Filter_BOTH
		}, "mechanism ifb is for received packets", nil},
		"netem": {func(s *v1.Fault) { s.Mechanism = "netem" }, "mechanism netem is for sent packets", nil},
	} {
		t.Run(name, func(t *testing.T) {
			spec := receiving(late(time.Second))
			test.change(spec)
			_, err := f.plan(network.Latency(), spec)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v", err)
			}
		})
	}
	plan, err := f.plan(network.Latency(), receiving(late(time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	if plan.Mechanism != "ifb" {
		t.Errorf("mechanism %s", plan.Mechanism)
	}
	seen := map[string]bool{}
	for _, change := range plan.Changes {
		for _, part := range []string{"ifb interface with qdisc fq", "ingress cls_bpf filters"} {
			seen[part] = seen[part] || strings.Contains(change.GetAction(), part)
		}
		if change.GetUndo() == "" {
			t.Errorf("nobody undoes: %v", change)
		}
	}
	if len(seen) != 2 || slices.Contains([]bool{seen["ifb interface with qdisc fq"], seen["ingress cls_bpf filters"]}, false) {
		t.Errorf("changes %v", plan.Changes)
	}
}

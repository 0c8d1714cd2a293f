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

// emulated is a target that has its network namespace for itself, and what it
// sends: to port 7000, which the faults are about, and to another one.
type emulated struct {
	*fixture
	pair, other env.DelayPair
	before      string
}

func newEmulated(t *testing.T, kind fault.Kind, mechanism string, count int, interval time.Duration, size int) *emulated {
	t.Helper()
	e := &emulated{fixture: newFixture(t, kind, mechanism)}
	e.pair = env.NewSizedDelayPair(t, e.network, e.target, e.neighbour, env.AddressB+":7000", count, interval, size)
	e.other = env.NewDelayPair(t, e.network, e.target, e.neighbour, "["+env.Address6B+"]:7001", 200, time.Millisecond)
	e.before = e.queues()
	return e
}

func (e *emulated) queues() string { return e.network.A.Run("tc", "-d", "qdisc", "show") }

// exchange sends all of it.
func (e *emulated) exchange(longest time.Duration) (arrivals []env.Arrival) {
	e.t.Helper()
	sent, arrivals := e.pair.Exchange(longest)
	others, passed := e.other.Exchange(0)
	if sent.Errors+others.Errors > 0 || len(passed) != e.other.Count {
		e.t.Errorf("errors: %s%s; %d of the packets to another port came", sent.First, others.First, len(passed))
	}
	if half := env.Quantile(env.Took(passed), 0.5); half > 50*time.Millisecond {
		e.t.Errorf("half of the packets to another port took %s", half)
	}
	return arrivals
}

func (e *emulated) end(injection *env.Injected) {
	e.t.Helper()
	if during := e.queues(); !strings.Contains(during, "qdisc prio fa19:") {
		e.t.Errorf("no prio of ours in:\n%s", during)
	}
	injection.End()
	env.Unchanged(e.t, e.before, e.queues())
}

// Without an fq netem holds the packets that the filter and the seed choose, and
// only those.
func TestNetemHoldsAndDoubles(t *testing.T) {
	const (
		count = 1000
		delay = 60 * time.Millisecond
	)
	t.Run("latency", func(t *testing.T) {
		e := newEmulated(t, network.Latency(), "netem", count, time.Millisecond, 0)
		spec := late(delay)
		spec.Mechanism = "netem"
		latency := spec.GetNetworkLatency()
		latency.Jitter, latency.Distribution = durationpb.New(5*time.Millisecond), v1.Distribution_NORMAL
		injection := e.inject(network.Latency(), spec)
		took := env.Took(e.exchange(2 * delay))
		e.end(injection)
		e.counted(injection, fault.Counters{Matched: count, Injected: count})
		// At the most four deviations to both sides; the slower half is the machine's.
		if least, half := env.Quantile(took, 0), env.Quantile(took, 0.5); len(took) != count || least < delay-20*time.Millisecond || half < delay-2*time.Millisecond {
			t.Errorf("%d came of %d, the first after %s, half after %s", len(took), count, least, half)
		}
	})
	t.Run("duplicates", func(t *testing.T) {
		e := newEmulated(t, network.Duplicate(), "netem", count, 100*time.Microsecond, 0)
		spec := twice(30, 25)
		spec.Mechanism = "netem"
		injection := e.inject(network.Duplicate(), spec)
		arrivals := e.exchange(0)
		e.end(injection)
		want := duplicated(spec, count)
		if got := doubles(t, arrivals, count); !slices.Equal(got, want) {
			t.Errorf("%d packets came twice, the seed says %d others", len(got), len(want))
		}
		e.counted(injection, fault.Counters{Matched: count, Injected: uint64(len(want))})
	})
}

func TestTBFIsTheRate(t *testing.T) {
	const (
		rate    = 4_000_000
		burst   = 16 << 10
		count   = 1000
		size    = 972
		headers = 42 // Ethernet, IPv4, UDP: tbf counts them all
	)
	e := newEmulated(t, network.Bandwidth(), "tbf", count, time.Nanosecond, size)
	spec := &v1.Fault{
		Mechanism: "tbf",
		Filter:    &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
		Fault:     &v1.Fault_NetworkBandwidth{NetworkBandwidth: &v1.NetworkBandwidth{Rate: rate, Burst: burst}},
	}
	injection := e.inject(network.Bandwidth(), spec)
	var ratio float64
	for try := 1; try <= 5 && ratio < 0.97; try++ {
		arrivals := e.exchange(0)
		if len(arrivals) != count {
			t.Fatalf("%d came of %d", len(arrivals), count)
		}
		first := 2 * burst / size
		took := arrivals[count-1].At - arrivals[first].At
		ratio = float64(count-1-first) * (size + headers) * 8 / took.Seconds() / rate
		if ratio > 1.03 {
			t.Errorf("the rate is %.3f of what was asked for", ratio)
		}
	}
	e.end(injection)
	if ratio < 0.97 {
		t.Errorf("the rate is only %.3f of what was asked for", ratio)
	}
	spec.GetNetworkBandwidth().Burst = 1000
	plan, err := e.plan(network.Bandwidth(), spec)
	if err != nil || !strings.Contains(strings.Join(plan.Warnings, " "), "eth0: the burst is 1518 bytes") {
		t.Errorf("a burst that lets no packet through: %v, warnings %q", err, plan.Warnings)
	}
}

// A qdisc at the root is everybody's: nobody else may live there.
func TestEmulationIsForNamespacesOfTheTargets(t *testing.T) {
	e := newEmulated(t, network.Latency(), "netem", 1, time.Millisecond, 0)
	env.NewDelayPair(t, e.network, e.neighbour, e.neighbour, env.AddressB+":7002", 1, time.Millisecond)
	spec := late(time.Second)
	spec.Mechanism = "netem"
	if _, err := e.plan(network.Latency(), spec); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "shares its network namespace with process") {
		t.Errorf("the error is %v", err)
	}
	env.Unchanged(t, e.before, e.queues())
}

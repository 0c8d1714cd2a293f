//go:build linux && privileged

package network_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/stat"
	"faultline.dev/faultline/test/vm/kernels"
)

// beside is another network like the fixture's, for netem. It skips the test
// where the kernel has none.
func (f *fixture) beside() env.Network {
	f.t.Helper()
	if answer := f.prober.Probe(f.t.Context(), kernel.Netem); !answer.OK() {
		kernels.Missing(f.t, string(kernel.Netem), errors.New(answer.Reason))
	}
	return env.NewNetwork(f.t)
}

// netem delays all that A sends.
func netem(n env.Network, delay ...string) {
	n.A.Run("tc", append([]string{"qdisc", "add", "dev", env.Veth, "root", "netem", "limit", "100000", "delay"}, delay...)...)
}

// everything delays all that the target sends.
func everything(delay time.Duration, mechanism string) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_NetworkLatency{NetworkLatency: &v1.NetworkLatency{Delay: durationpb.New(delay)}},
	}
}

// Round trips of the target are longer by the delay, as netem's are in the same
// rounds, and no packet of the neighbour waits.
func TestRoundTripsAreLikeNetems(t *testing.T) {
	const (
		delay = 50 * time.Millisecond
		// On an idle machine they differ by less than 1 ms (docs/benchmarks.md).
		// One that stands still in one of two rounds moves medians; more rounds
		// leave that less weight.
		near = delay / 10
		// Held twice.
		loose = delay
		most  = 6
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Latency(), mechanism)
			other := f.beside()
			netem(other, milliseconds(delay))
			env.ServeRoundTrips(t, f.network, f.neighbour)
			env.ServeRoundTrips(t, other, f.neighbour)
			ours, theirs := env.NewRoundTrips(t, f.network, f.target), env.NewRoundTrips(t, other, f.neighbour)
			neighbour := env.NewRoundTrips(t, f.network, f.neighbour)
			injection := f.inject(network.Latency(), everything(delay, mechanism))
			times := map[string][]time.Duration{}
			// At the same time, so that what holds up the machine holds up all.
			measure := func(trips map[string]env.RoundTrips) {
				for what, begin := range map[string]func(env.RoundTrips){
					" ping":    func(r env.RoundTrips) { r.Ping(100, 3*time.Millisecond) },
					" connect": func(r env.RoundTrips) { r.Dial(50, 6*time.Millisecond) },
				} {
					for _, r := range trips {
						begin(r)
					}
					for name, r := range trips {
						times[name+what] = append(times[name+what], r.Times()...)
					}
				}
			}
			off := func(what string, q float64) time.Duration {
				return (env.Quantile(times["our "+what], q) - env.Quantile(times["netem's "+what], q)).Abs()
			}
			for round := 1; round <= most; round++ {
				measure(map[string]env.RoundTrips{"our": ours, "netem's": theirs})
				if err := env.Within(30*time.Second, f.connectionless); err != nil {
					t.Fatal(err)
				}
				waited := f.throttled()
				if waited == 0 {
					t.Fatal("none of the target's packets waited, as fq counts")
				}
				measure(map[string]env.RoundTrips{"the neighbour's": neighbour})
				if now := f.throttled(); now != waited {
					t.Errorf("%d packets of the neighbour waited", now-waited)
				}
				if round > 1 && off("ping", 0.5) < near && off("connect", 0.5) < near {
					break
				}
			}
			injection.End()
			for _, what := range []string{"ping", "connect"} {
				for _, whose := range []string{"our", "netem's", "the neighbour's"} {
					all := times[whose+" "+what]
					t.Logf("%s %s: least %s, p50 %s, p99 %s of %d", whose, what, env.Quantile(all, 0), env.Quantile(all, 0.5), env.Quantile(all, 0.99), len(all))
				}
				if least := env.Quantile(times["our "+what], 0); least < delay {
					t.Errorf("%s: one took only %s", what, least)
				}
				if off := off(what, 0.5); off > loose {
					t.Errorf("%s: medians are %s apart, want %s, at most %s", what, off, near, loose)
				}
			}
		})
	}
}

var throttled = regexp.MustCompile(`highprio.* throttled (\d+)`)

// throttled is how many times fq has held a flow's packet for its stamp, since
// it was made (stat_throttled of sch_fq).
func (f *fixture) throttled() int {
	f.t.Helper()
	text := f.network.A.Run("tc", "-s", "qdisc", "show", "dev", env.Veth)
	found := throttled.FindStringSubmatch(text)
	if found == nil {
		f.t.Fatalf("fq counts nothing:\n%s", text)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// connectionless is the error of a connection that is not over at both ends:
// the last packets of it may have to wait yet.
func (f *fixture) connectionless() error {
	for _, ns := range []*env.Namespace{f.network.A, f.network.B} {
		for line := range strings.Lines(ns.Run("ss", "-Htan")) {
			if state := strings.Fields(line)[0]; state != "LISTEN" && state != "TIME-WAIT" {
				return fmt.Errorf("a connection is not over: %s", line)
			}
		}
	}
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// What receivers measure of a jitter has netem's distribution. FAULTLINE_SAMPLES
// says how many packets that is, and asks for all distributions.
func TestJitterIsLikeNetems(t *testing.T) {
	count, distributions := 2000, []v1.Distribution{v1.Distribution_NORMAL}
	if given := os.Getenv("FAULTLINE_SAMPLES"); given != "" {
		var err error
		if count, err = strconv.Atoi(given); err != nil {
			t.Fatalf("FAULTLINE_SAMPLES: %v", err)
		}
		distributions = append(distributions, v1.Distribution_UNIFORM, v1.Distribution_PARETO)
	}
	for _, distribution := range distributions {
		t.Run(distribution.String(), func(t *testing.T) { jitterIsLikeNetems(t, distribution, count) })
	}
}

func jitterIsLikeNetems(t *testing.T, distribution v1.Distribution, count int) {
	const (
		interval = 1500 * time.Microsecond
		delay    = 200 * time.Millisecond
		// Wide enough for what the machine adds: 1 ms more here than there is 0.008.
		jitter = 50 * time.Millisecond
		level  = 0.01
		tries  = 4
	)
	f := newFixture(t, network.Latency(), "cls_bpf_fq")
	other := f.beside()
	pairs := []env.DelayPair{
		env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, interval),
		env.NewDelayPair(t, other, f.neighbour, f.neighbour, env.AddressB+":7000", count, interval),
	}
	exchange := func() (took [2][]time.Duration) {
		for _, pair := range pairs {
			pair.Begin(2 * delay)
		}
		for i, pair := range pairs {
			sent, arrivals := pair.End()
			if sent.Errors > 0 || len(arrivals) != count {
				t.Fatalf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
			}
			took[i] = env.Took(arrivals)
		}
		return took
	}
	before := exchange()
	args := []string{milliseconds(delay), milliseconds(jitter)}
	if distribution != v1.Distribution_UNIFORM {
		args = append(args, "distribution", strings.ToLower(distribution.String()))
	}
	netem(other, args...)
	spec := late(delay)
	spec.GetNetworkLatency().Jitter, spec.GetNetworkLatency().Distribution = durationpb.New(jitter), distribution
	injection := f.inject(network.Latency(), spec)
	critical := stat.Critical(level, stat.Pooled(float64(count), float64(count)))
	var distance float64
	// What is true is rejected in a share level of cases.
	for range tries {
		during := exchange()
		distance = stat.DistanceBetween(extra(during[0], before[0]), extra(during[1], before[1]))
		t.Logf("distance to netem's %.4f, critical at %v: %.4f; p1, p50, p99 %s, netem's %s", distance, level, critical,
			quantiles(during[0]), quantiles(during[1]))
		if distance < critical {
			break
		}
	}
	if distance >= critical {
		t.Errorf("distance %.4f to netem's, %d times above %.4f", distance, tries, critical)
	}
	injection.End()
}

// extra are the times without what half of the packets took before, in ms.
func extra(times, before []time.Duration) (list []float64) {
	base := env.Quantile(before, 0.5)
	for _, d := range times {
		list = append(list, float64(d-base)/float64(time.Millisecond))
	}
	return list
}

func quantiles(times []time.Duration) (list []time.Duration) {
	for _, q := range []float64{0.01, 0.5, 0.99} {
		list = append(list, env.Quantile(times, q).Round(100*time.Microsecond))
	}
	return list
}

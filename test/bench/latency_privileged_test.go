//go:build linux && privileged

package bench_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

const iperfPort = "5201"

// late delays by a mechanism what the target sends to some ports, or all
// of it.
func late(mechanism string, delay time.Duration, ports ...string) setting {
	return faultOn(target, func() *v1.Fault {
		return &v1.Fault{
			Mechanism: mechanism,
			Filter:    &v1.Filter{Direction: v1.Filter_EGRESS, Ports: ports},
			Fault:     &v1.Fault_NetworkLatency{NetworkLatency: &v1.NetworkLatency{Delay: durationpb.New(delay)}},
		}
	})
}

// netemDelay delays everything that leaves by the interface.
func netemDelay(delay time.Duration) setting {
	return func(p *place) string {
		return tries(p.network.A, "tc", "qdisc", "add", "dev", env.Veth, "root", "netem", "delay", fmt.Sprintf("%dms", delay.Milliseconds()), "limit", "100000")
	}
}

// onlyQdisc puts a qdisc on the interface, which has none by itself, and nothing
// else; fq_codel is what network cards have by default.
func onlyQdisc(kind string) setting {
	return func(p *place) string {
		return tries(p.network.A, "tc", "qdisc", "add", "dev", env.Veth, "root", kind)
	}
}

// lateVariants are one delay by netem and by each mechanism.
func lateVariants(delay time.Duration, streams int) (variants []*bulk) {
	for name, set := range map[string]setting{
		withNetem:    netemDelay(delay),
		"tcx_fq":     late("tcx_fq", delay, iperfPort),
		"cls_bpf_fq": late("cls_bpf_fq", delay, iperfPort),
	} {
		variants = append(variants, &bulk{name: name, set: set, streams: streams})
	}
	return variants
}

// BenchmarkLatePackets compares the packets per second that a sender gets rid of
// when each is held for a millisecond, and what the qdisc fq in the place of the
// interface's own costs a bystander. So few wait that no queue is full.
func BenchmarkLatePackets(b *testing.B) {
	const delay = time.Millisecond
	report := newReport("latepackets", "Small datagrams that leave 1 ms later: packets per second and CPU time, of the target and of a bystander on its interface; nothing = 1")
	report.Columns = []bench.Column{
		{Key: "target_rate", Head: "target, rate", Digits: 2},
		{Key: "target_cpu", Head: "target, CPU", Digits: 2},
		{Key: "target_best", Head: "CPU, undisturbed", Digits: 2},
		{Key: "bystander_rate", Head: "bystander, rate", Digits: 2},
		{Key: "bystander_cpu", Head: "bystander, CPU", Digits: 2},
		{Key: "bystander_best", Head: "CPU, undisturbed", Digits: 2},
	}
	report.Rows = measurePackets(b, []*variant{
		{name: "nothing", set: nothing},
		{name: "nothing, again", set: nothing},
		{name: "tcx_fq", set: late("tcx_fq", delay), matches: true},
		{name: "tcx_fq, other port", set: late("tcx_fq", delay, "7999")},
		{name: "cls_bpf_fq", set: late("cls_bpf_fq", delay), matches: true},
		{name: "cls_bpf_fq, other port", set: late("cls_bpf_fq", delay, "7999")},
		{name: "fq alone", set: onlyQdisc("fq")},
		{name: "fq_codel alone", set: onlyQdisc("fq_codel")},
		{name: withNetem, set: netemDelay(delay)},
	})
	write(b, report)
}

// BenchmarkLateTCP compares the throughput of TCP that is delayed on its way
// out. In its first seconds that doubles with each round trip, so that one that is
// half a millisecond longer would make a difference of several percent.
func BenchmarkLateTCP(b *testing.B) {
	for _, delay := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} {
		for _, streams := range []int{1, 8} {
			variants := lateVariants(delay, streams)
			active := setBulk(b, variants, nothing)
			bench.Interleave(*tcpRoundsFlag, len(active), func(i int) {
				active[i].keep(active[i].start(b, *pathFlag).finish(b))
			})
			reportBulk(b, fmt.Sprintf("late-%s-%d", delay, streams),
				fmt.Sprintf("Bulk TCP, %d streams, %s later: ratios of throughput", streams, delay), variants)
			for _, v := range variants {
				v.place.revert()
			}
		}
	}
}

// TestLatencyIsLikeNetemToBulkTCP shows that the packets that wait do not count
// against their socket: with a stamp alone the throughput would be a hundredth.
func TestLatencyIsLikeNetemToBulkTCP(t *testing.T) {
	const delay = 50 * time.Millisecond
	variants := lateVariants(delay, 1)
	active := setBulk(t, variants, nothing)
	for _, v := range variants {
		if v.missing != "" && v.name == withNetem {
			kernels.Missing(t, "netem", errors.New(v.missing))
		}
	}
	bench.Interleave(3, len(active), func(i int) {
		active[i].keep(active[i].start(t, 3*time.Second).finish(t))
	})
	for _, v := range active {
		ratio := total(variants, v.name) / total(variants, withNetem)
		t.Logf("%s: %.2f of netem's throughput, round trip %.1f ms", v.name, ratio, v.roundTrips[len(v.roundTrips)-1])
		if ratio < 0.1 {
			t.Errorf("%s: bulk TCP had %.2f of its throughput under netem", v.name, ratio)
		}
	}
}

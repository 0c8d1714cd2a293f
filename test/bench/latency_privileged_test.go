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

// late delays by a mechanism what goes to iperf3's port.
func late(mechanism string, delay time.Duration) setting {
	return faultOn(target, func() *v1.Fault {
		return &v1.Fault{
			Mechanism: mechanism,
			Filter:    &v1.Filter{Direction: v1.Filter_EGRESS, Protocol: v1.Filter_TCP, Ports: []string{"5201"}},
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

// lateVariants are one delay by netem and by each mechanism.
func lateVariants(delay time.Duration, streams int) (variants []*bulk) {
	for name, set := range map[string]setting{
		withNetem:    netemDelay(delay),
		"tcx_fq":     late("tcx_fq", delay),
		"cls_bpf_fq": late("cls_bpf_fq", delay),
	} {
		variants = append(variants, &bulk{name: name, set: set, streams: streams})
	}
	return variants
}

// BenchmarkLateTCP compares the throughput of TCP that is delayed on its way
// out.
func BenchmarkLateTCP(b *testing.B) {
	for _, delay := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} {
		for _, streams := range []int{1, 8} {
			variants := lateVariants(delay, streams)
			active := setBulk(b, variants, nothing)
			bench.Interleave(*tcpRoundsFlag, len(active), func(i int) {
				active[i].keep(active[i].start(b, *tcpLengthFlag).finish(b))
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

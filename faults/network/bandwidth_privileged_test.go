//go:build linux && privileged

package network_test

import (
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// A sender that is as fast as it can be gets the rate through and no more, and
// loses nothing: it feels the queue and waits.
func TestBandwidthIsTheRate(t *testing.T) {
	const (
		rate    = 4_000_000
		burst   = 16 << 10
		count   = 1500
		size    = 972
		headers = 28 // IPv4, UDP
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Bandwidth(), mechanism)
			pair := env.NewSizedDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, time.Nanosecond, size)
			other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, env.AddressB+":7001", 200, 5*time.Millisecond)
			tries := 0
			injection := f.inject(network.Bandwidth(), &v1.Fault{
				Mechanism: mechanism,
				Filter:    &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
				Fault:     &v1.Fault_NetworkBandwidth{NetworkBandwidth: &v1.NetworkBandwidth{Rate: rate, Burst: burst}},
			})
			// A machine that stands still for a while sends less; never more.
			var ratio float64
			for try := 1; try <= 5 && ratio < 0.97; try++ {
				sent, arrivals := pair.Exchange(0)
				if sent.Errors > 0 || len(arrivals) != count {
					t.Fatalf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
				}
				// What the burst let through at once is not part of the rate.
				first := 2 * burst / size
				took := arrivals[count-1].At - arrivals[first].At
				ratio = float64(count-1-first) * (size + headers) * 8 / took.Seconds() / rate
				t.Logf("%.3f of the rate", ratio)
				if ratio > 1.03 {
					t.Errorf("the rate is %.3f of what was asked for", ratio)
				}
				tries = try
			}
			if ratio < 0.97 {
				t.Errorf("the rate is only %.3f of what was asked for", ratio)
			}
			_, theirs := other.Exchange(0)
			counters := injection.Count()
			injection.End()
			all := uint64(tries * count)
			if counters.Matched != all || counters.Injected < all*9/10 || counters.Missed != 0 {
				t.Errorf("counted %+v of %d packets", counters, all)
			}
			if half := env.Quantile(env.Took(theirs), 0.5); half > 100*time.Millisecond {
				t.Errorf("half of the neighbour's packets took %s", half)
			}
		})
	}
}

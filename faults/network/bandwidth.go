package network

import (
	"context"
	"fmt"
	"math"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/qdisc"
)

// Bandwidth is networkBandwidth: a line that is slower than the real one.
func Bandwidth() fault.Kind {
	return fault.Kind{
		Name:    "networkBandwidth",
		Summary: "limits the rate, with bursts",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismTCXFQ,
				Summary: "cgroup_skb says when each packet may leave, a tcx link at the interface writes it on the packet, the fq qdisc holds it",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX, kernel.FQ},
			},
			{
				Name:    mechanismClsFQ,
				Summary: sameByCls,
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF, kernel.FQ},
			},
			{
				Name:    mechanismTBF,
				Summary: "cgroup_skb steers the packets into a class that holds tbf, behind a journal record; for a target with a network namespace of its own",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.Prio, kernel.TBF},
			},
			byIFB(),
		},
		Example: `target: {cgroup: /shop/checkout}
networkBandwidth: {rate: 10Mbit, burst: 64KiB}
duration: 60s`,
		Validate: validateBandwidth,
		Plan:     planBandwidth,
	}
}

const (
	// leastRate is what tc(8) can express: one byte per second.
	leastRate = 8
	// usualBurst is the burst in bytes where none is given: some large packets.
	usualBurst = 16 << 10
	// longestShaped is how long one packet may have to wait for its turn. A
	// socket has sent no more than its buffer holds; at a rate that makes more of
	// that packets leave early, and never are lost.
	longestShaped = 10 * time.Second
	// usualQueue is how long received packets wait for their turn at the most.
	usualQueue = time.Second
)

func validateBandwidth(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "networkBandwidth"}
	switch rate := spec.GetNetworkBandwidth().GetRate(); {
	case rate == 0:
		p.Add("rate", "is missing or 0; give bits per second, such as 10Mbit (networkPartition lets nothing through)")
	case rate < leastRate:
		p.Add("rate", "is %dbit; at least %dbit are allowed", rate, leastRate)
	}
	p.NoRate(spec, "networkBandwidth")
	return append(p.List(), filter.Validate(spec.GetFilter())...)
}

// shape is a rate in bits per second, and a burst in bytes.
type shape struct{ rate, burst uint64 }

// byteTime is how long one byte takes, in parts of 2^16 ns.
func (s shape) byteTime() uint64 { return uint64(8e9 * 65536 / float64(s.rate)) }

// full is how long a burst lasts at the rate.
func (s shape) full() time.Duration {
	return time.Duration(float64(s.burst) * 8e9 / float64(s.rate))
}

// queue is how long a received packet waits at the most; those that would wait
// longer are lost, as where a slow line begins. A packet may be one of many that
// the driver has put together: there is room for two of the longest.
func (s shape) queue() time.Duration {
	const pair = 2 * 64 << 10
	return min(max(usualQueue, shape{rate: s.rate, burst: pair}.full()), longestShaped)
}

func planBandwidth(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkBandwidth", req)
	if err != nil {
		return nil, err
	}
	limit := req.Spec.GetNetworkBandwidth()
	p.shape = &shape{rate: limit.GetRate(), burst: limit.GetBurst()}
	if p.shape.burst == 0 {
		p.shape.burst = usualBurst
	}
	chosen, err := p.direct(ctx, Bandwidth(), received{
		bySocket: inbound.ObjectsProgFlInShape, all: inbound.ObjectsProgFlInShapeAll,
		queue: qdisc.Params{Delay: p.shape.queue()},
	}, mechanismTCXFQ, mechanismClsFQ, mechanismTBF)
	switch {
	case err != nil:
		return nil, err
	case chosen == mechanismTBF:
		p.emulate(qdisc.TokenBucket{
			Rate: max(p.shape.rate/8, 1), Burst: uint32(min(p.shape.burst, math.MaxUint32)), Longest: longestShaped,
		}, longestShaped)
	case p.filter.Egress:
		p.egressProgram, p.hook = cgroupskb.ObjectsProgFlShapeEgress, holding[chosen]
		p.queue = &qdisc.Params{Delay: longestShaped}
	}
	what := fmt.Sprintf("no faster than %s, %s at once", units.FormatBitRate(limit.GetRate()), units.FormatBytes(p.shape.burst))
	return p.finish(chosen, what)
}

package network

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
)

// held is the ladder of the faults that hold packets back.
func held() []fault.Mechanism {
	return []fault.Mechanism{
		{
			Name:    mechanismTCXFQ,
			Summary: "cgroup_skb chooses, a tcx link at the interface puts a copy without socket in the packet's place, the fq qdisc holds it",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX, kernel.FQ},
		},
		{
			Name:    mechanismClsFQ,
			Summary: sameByCls,
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF, kernel.FQ},
		},
	}
}

// byNetem is the rung below those, where netem can do it.
func byNetem() fault.Mechanism {
	return fault.Mechanism{
		Name:    mechanismNetem,
		Summary: "cgroup_skb steers the packets into a class that holds netem, behind a journal record; for a target with a network namespace of its own",
		Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.Prio, kernel.Netem},
	}
}

// validateShare checks the kinds that hit a share of the packets.
func validateShare(spec *v1.Fault, kind string, share interface {
	GetPercent() float64
	GetCorrelation() float64
}, what string) []fault.Problem {
	p := check.Problems{Prefix: kind}
	p.Share("percent", share.GetPercent(), what)
	p.Percent("correlation", share.GetCorrelation())
	return append(p.List(), filter.Validate(spec.GetFilter())...)
}

package network

import (
	"context"
	"fmt"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/qdisc"
)

// Duplicate is networkDuplicate: packets that come twice.
func Duplicate() fault.Kind {
	return fault.Kind{
		Name:    "networkDuplicate",
		Summary: "lets packets come twice",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismTCX,
				Summary: "cgroup_skb chooses, a tcx link at the interface sends a copy; ends with the process",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX},
			},
			{
				Name:    mechanismClsBPF,
				Summary: sameByCls,
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF},
			},
			byNetem(),
			byIFB(),
		},
		Example: `target: {cgroup: /shop/checkout}
networkDuplicate: {percent: 5}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			return validateShare(spec, "networkDuplicate", spec.GetNetworkDuplicate(), "packets are sent twice")
		},
		Plan: planDuplicate,
	}
}

func planDuplicate(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkDuplicate", req)
	if err != nil {
		return nil, err
	}
	chosen, err := p.direct(ctx, Duplicate(), received{
		bySocket: inbound.ObjectsProgFlInDup, all: inbound.ObjectsProgFlInDupAll,
	}, mechanismTCX, mechanismClsBPF, mechanismNetem)
	if err != nil {
		return nil, err
	}
	duplicate := req.Spec.GetNetworkDuplicate()
	p.dice.Share(duplicate)
	switch {
	case chosen == mechanismNetem:
		p.emulate(qdisc.Netem{Duplicate: true}, 0)
	case p.filter.Egress:
		p.egressProgram, p.hook = cgroupskb.ObjectsProgFlDupEgress, passing[chosen]
	}
	return p.finish(chosen, describeShare("double %v %% of the packets", duplicate))
}

// describeShare says what becomes of a share of the packets; format takes the
// percentage.
func describeShare(format string, of interface {
	GetPercent() float64
	GetCorrelation() float64
},
) string {
	text := fmt.Sprintf(format, of.GetPercent())
	if of.GetCorrelation() > 0 {
		text += fmt.Sprintf(", each with %v %% chance to share the fate of the one before", of.GetCorrelation())
	}
	return text
}

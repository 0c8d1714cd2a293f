package network

import (
	"context"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
)

// Corrupt is networkCorrupt: packets whose payload has a wrong bit. netem is no
// mechanism of it: it flips bits of headers too.
func Corrupt() fault.Kind {
	return fault.Kind{
		Name:    "networkCorrupt",
		Summary: "flips a bit in packets; the receiver's kernel notices, or the program gets it",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismTCX,
				Summary: "cgroup_skb chooses, a tcx link at the interface flips the bit; ends with the process",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX},
			},
			{
				Name:    mechanismClsBPF,
				Summary: sameByCls,
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF},
			},
			byIFB(),
		},
		Example: `target: {cgroup: /shop/checkout}
networkCorrupt: {percent: 1, checksum: RIGHT}
filter: {ports: ["5432"], protocol: TCP}
duration: 60s`,
		Validate: validateCorrupt,
		Plan:     planCorrupt,
	}
}

func validateCorrupt(spec *v1.Fault) []fault.Problem {
	corrupt := spec.GetNetworkCorrupt()
	p := check.Problems{Prefix: "networkCorrupt"}
	p.Share("percent", corrupt.GetPercent(), "packets are corrupted")
	p.Percent("correlation", corrupt.GetCorrelation())
	if _, known := v1.NetworkCorrupt_Checksum_name[int32(corrupt.GetChecksum())]; !known {
		p.Add("checksum", "%d is not known; give WRONG or RIGHT", corrupt.GetChecksum())
	}
	return append(p.List(), filter.Validate(spec.GetFilter())...)
}

func planCorrupt(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkCorrupt", req)
	if err != nil {
		return nil, err
	}
	chosen, err := p.direct(ctx, Corrupt(), received{
		bySocket: inbound.ObjectsProgFlInFlip, all: inbound.ObjectsProgFlInFlipAll,
	}, mechanismTCX, mechanismClsBPF)
	if err != nil {
		return nil, err
	}
	corrupt := req.Spec.GetNetworkCorrupt()
	p.dice.Share(corrupt)
	if p.filter.Connections == v1.Filter_NEW {
		p.warn("packets that open a connection carry data only with TCP Fast Open: without it nothing is hit")
	}
	p.wrong = corrupt.GetChecksum() != v1.NetworkCorrupt_RIGHT
	if p.filter.Egress {
		p.egressProgram, p.hook = cgroupskb.ObjectsProgFlFlipEgress, damaging[chosen]
	}
	what := describeShare("flip a bit in %v %% of the packets", corrupt)
	if p.wrong {
		return p.finish(chosen, what+", the checksum is wrong")
	}
	return p.finish(chosen, what+", the checksum is right")
}

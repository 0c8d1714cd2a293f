package network

import (
	"context"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
)

// Partition is networkPartition: everything that the filter matches is lost.
func Partition() fault.Kind {
	return fault.Kind{
		Name:    "networkPartition",
		Summary: "drops all packets to and from the peers and ports of the filter",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{{
			Name:    mechanismCgroupSKB,
			Summary: "links on the cgroup's packet hooks: every network namespace and interface of it; end with the process",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB},
		}},
		Example: `name: no database
target: {cgroup: /shop/checkout}
networkPartition: {}
filter: {direction: BOTH, peers: [10.0.0.0/8], ports: ["5432"]}
duration: 30s`,
		Validate: validatePartition,
		Plan:     planPartition,
	}
}

func validatePartition(spec *v1.Fault) []fault.Problem {
	problems := filter.Validate(spec.GetFilter())
	if spec.GetRate() != nil {
		problems = append(problems, fault.Problem{
			Path:    "rate",
			Message: "a partition loses everything that its filter matches; use networkLoss to lose a part",
		})
	}
	return problems
}

func planPartition(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	// A partition cuts both ways unless the document says otherwise.
	p, err := newPlan(ctx, "networkPartition", req)
	if err != nil {
		return nil, err
	}
	if req.Spec.GetFilter().GetDirection() == v1.Filter_DIRECTION_UNSPECIFIED {
		p.filter.Egress, p.filter.Ingress = true, true
	}
	chosen, err := fault.Choose(ctx, req, Partition(), mechanismCgroupSKB)
	if err != nil {
		return nil, err
	}
	if p.filter.Egress {
		p.egressProgram = cgroupskb.ObjectsProgFlDropEgress
	}
	if p.filter.Ingress {
		p.ingressProgram = cgroupskb.ObjectsProgFlDropIngress
	}
	return p.finish(chosen, "lose every packet")
}

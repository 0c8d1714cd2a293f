package network

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Unbuilt are the kinds of the family that a document may name already, and
// that this version does not inject.
func Unbuilt() []fault.Kind {
	return []fault.Kind{duplicate(), corrupt(), reorder(), bandwidth()}
}

// held is the ladder of the faults that hold packets back or send more of them.
func held() []fault.Mechanism {
	return []fault.Mechanism{
		{
			Name:    mechanismTCXFQ,
			Summary: "cgroup_skb chooses, a tcx link at the interface puts a copy without socket in the packet's place, the fq qdisc holds it",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX, kernel.FQ},
		},
		{
			Name:    mechanismClsFQ,
			Summary: "the same with a cls_bpf filter on clsact, behind a journal record",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF, kernel.FQ},
		},
		{
			Name:    mechanismNetem,
			Summary: "cgroup_skb steers the packets into a class that holds netem, behind a journal record; not built yet",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.Netem},
		},
	}
}

func duplicate() fault.Kind {
	return fault.Kind{
		Name:       "networkDuplicate",
		Summary:    "sends packets twice",
		Scope:      fault.ScopeCgroup,
		Mechanisms: held(),
		Example: `target: {cgroup: /shop/checkout}
networkDuplicate: {percent: 5}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			return validateShare(spec, "networkDuplicate", spec.GetNetworkDuplicate(), "packets are sent twice")
		},
	}
}

func corrupt() fault.Kind {
	return fault.Kind{
		Name:       "networkCorrupt",
		Summary:    "flips bits in packets",
		Scope:      fault.ScopeCgroup,
		Mechanisms: held(),
		Example: `target: {cgroup: /shop/checkout}
networkCorrupt: {percent: 1}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			return validateShare(spec, "networkCorrupt", spec.GetNetworkCorrupt(), "packets are corrupted")
		},
	}
}

func reorder() fault.Kind {
	return fault.Kind{
		Name:       "networkReorder",
		Summary:    "lets packets fall back behind later ones",
		Scope:      fault.ScopeCgroup,
		Mechanisms: held(),
		Example: `target: {cgroup: /shop/checkout}
networkReorder: {percent: 10, gap: 3}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			return validateShare(spec, "networkReorder", spec.GetNetworkReorder(), "packets are reordered")
		},
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
	return append(p.List(), ValidateFilter(spec.GetFilter())...)
}

// leastRate is what tc(8) can express: one byte per second.
const leastRate = 8

func bandwidth() fault.Kind {
	return fault.Kind{
		Name:    "networkBandwidth",
		Summary: "limits the rate, with bursts",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "tcx_fq",
				Summary: "a tcx program gives each packet its departure time, the fq qdisc holds it",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.TCX, kernel.FQ},
			},
			{
				Name:    "cls_bpf_fq",
				Summary: "the same with a cls_bpf filter on clsact, behind a journal record",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.ClsBPF, kernel.FQ},
			},
			{
				Name:    "tbf",
				Summary: "cgroup_skb steers the packets into a class that holds a token bucket, behind a journal record",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TBF},
			},
		},
		Example: `target: {cgroup: /shop/checkout}
networkBandwidth: {rate: 10Mbit, burst: 64KiB}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: "networkBandwidth"}
			switch rate := spec.GetNetworkBandwidth().GetRate(); {
			case rate == 0:
				p.Add("rate", "is missing or 0; give bits per second, such as 10Mbit (networkPartition lets nothing through)")
			case rate < leastRate:
				p.Add("rate", "is %dbit; at least %dbit are allowed", rate, leastRate)
			}
			p.NoRate(spec, "networkBandwidth")
			return append(p.List(), ValidateFilter(spec.GetFilter())...)
		},
	}
}

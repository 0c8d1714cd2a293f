package network

import (
	"context"
	"fmt"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
)

// The mechanisms of the family.
const (
	mechanismTCX       = "tcx"
	mechanismClsBPF    = "cls_bpf"
	mechanismCgroupSKB = "cgroup_skb"
	mechanismTCXFQ     = "tcx_fq"
	mechanismClsFQ     = "cls_bpf_fq"
	mechanismNetem     = "netem"
	mechanismTBF       = "tbf"
)

// sameByCls is the summary of the mechanism after one by tcx.
const sameByCls = "the same with a cls_bpf filter on clsact, behind a journal record"

// Loss is networkLoss: packets that vanish at random, as on a bad network.
func Loss() fault.Kind {
	return fault.Kind{
		Name:    "networkLoss",
		Summary: "drops packets at random: independent, correlated or in bursts (Gilbert-Elliott)",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismTCX,
				Summary: "cgroup_skb chooses, a tcx link at the interface lets the packet vanish; ends with the process",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.TCX},
			},
			{
				Name:    mechanismClsBPF,
				Summary: sameByCls,
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF},
			},
			{
				Name:    mechanismCgroupSKB,
				Summary: "received packets are dropped here; sent ones only when named, as the sender is told",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB},
			},
		},
		Example: `name: lossy uplink
target: {cgroup: /shop/checkout}
networkLoss: {percent: 30}
filter: {ports: ["5432"], protocol: TCP}
duration: 30s`,
		Validate: validateLoss,
		Plan:     planLoss,
	}
}

func validateLoss(spec *v1.Fault) []fault.Problem {
	problems := filter.Validate(spec.GetFilter())
	report := func(path, message string) {
		problems = append(problems, fault.Problem{Path: "networkLoss" + path, Message: message})
	}
	percentage := func(path string, value float64) {
		if !(value >= 0 && value <= 100) {
			report(path, fmt.Sprintf("%v is no percentage; allowed is 0 to 100", value))
		}
	}
	loss := spec.GetNetworkLoss()
	ge := loss.GetGilbertElliott()
	if ge == nil {
		percentage(".percent", loss.GetPercent())
		percentage(".correlation", loss.GetCorrelation())
		if loss.GetPercent() == 0 {
			report(".percent", "is missing or 0; give how many of 100 packets are lost, or gilbertElliott")
		}
		return problems
	}
	if loss.GetPercent() != 0 || loss.GetCorrelation() != 0 {
		report("", "percent and correlation don't go with gilbertElliott; give one or the other")
	}
	percentage(".gilbertElliott.p", ge.GetP())
	percentage(".gilbertElliott.r", ge.GetR())
	percentage(".gilbertElliott.lossGood", ge.GetLossGood())
	percentage(".gilbertElliott.lossBad", ge.GetLossBad())
	if ge.GetP() == 0 && ge.GetLossGood() == 0 {
		report(".gilbertElliott.p", "is missing or 0, so that nothing would ever be lost; give the chance in percent to enter the bad state")
	}
	return problems
}

func planLoss(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkLoss", req)
	if err != nil {
		return nil, err
	}
	p.dice.Lose(req.Spec.GetNetworkLoss())
	chosen, err := fault.Choose(ctx, req, Loss(), p.lossLadder()...)
	if err != nil {
		return nil, err
	}
	if p.filter.Ingress {
		p.ingressProgram = cgroupskb.ObjectsProgFlDropIngress
	}
	if p.filter.Egress {
		if p.hook = passing[chosen]; p.hook != nil {
			p.egressProgram = cgroupskb.ObjectsProgFlLoseEgress
		} else {
			p.egressProgram = cgroupskb.ObjectsProgFlDropEgress
			p.warn("a sender is told of packets that cgroup_skb drops: TCP hardly notices this loss")
		}
	}
	return p.finish(chosen, describeLoss(req.Spec.GetNetworkLoss()))
}

// lossLadder is what auto may take: on egress never the mechanism that tells
// the sender.
func (p *plan) lossLadder() []string {
	if p.filter.Egress {
		return []string{mechanismTCX, mechanismClsBPF}
	}
	return []string{mechanismCgroupSKB}
}

func describeLoss(loss *v1.NetworkLoss) string {
	if ge := loss.GetGilbertElliott(); ge != nil {
		var c dice.Config
		c.Lose(loss)
		return fmt.Sprintf("lose packets in bursts (Gilbert-Elliott: p %v %%, r %v %%, loss %v %% and %v %%)",
			ge.GetP(), ge.GetR(), ge.GetLossGood(), 100*float64(c.LossBad)/dice.Always)
	}
	return describeShare("lose %v %% of the packets", loss)
}

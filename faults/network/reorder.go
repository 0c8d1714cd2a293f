package network

import (
	"context"
	"fmt"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/qdisc"
)

// Reorder is networkReorder: packets that later ones overtake.
func Reorder() fault.Kind {
	return fault.Kind{
		Name:    "networkReorder",
		Summary: "lets packets fall back behind later ones",
		Scope:   fault.ScopeCgroup,
		// Without netem, which knows no time but a fixed one.
		Mechanisms: append(held(), byIFB()),
		Example: `target: {cgroup: /shop/checkout}
networkReorder: {percent: 10, gap: 3}
duration: 60s`,
		Validate: validateReorder,
		Plan:     planReorder,
	}
}

const (
	// longestGap is how many packets one may fall back at the most. As many may
	// have to be remembered (REORDER_HELD_MAX of bpf/include/reorder.h).
	longestGap = 100
	// usualGap is the one of a document that gives none.
	usualGap = 1
	// longestFallen is REORDER_MOST: how long a packet is held at the most, when
	// few come that could pass it.
	longestFallen = time.Second
)

func validateReorder(spec *v1.Fault) []fault.Problem {
	reorder := spec.GetNetworkReorder()
	p := check.Problems{Prefix: "networkReorder"}
	if gap := reorder.GetGap(); gap > longestGap {
		p.Add("gap", "is %d; allowed is 0 to %d", gap, longestGap)
	}
	return append(p.List(), validateShare(spec, "networkReorder", reorder, "packets are reordered")...)
}

func planReorder(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkReorder", req)
	if err != nil {
		return nil, err
	}
	chosen, err := p.direct(ctx, Reorder(), received{
		bySocket: inbound.ObjectsProgFlInFall, all: inbound.ObjectsProgFlInFallAll,
		queue: qdisc.Params{Delay: longestFallen},
	}, mechanismTCXFQ, mechanismClsFQ)
	if err != nil {
		return nil, err
	}
	reorder := req.Spec.GetNetworkReorder()
	p.dice.Share(reorder)
	p.gap = max(reorder.GetGap(), usualGap)
	p.hitAtCgroup = true
	if p.filter.Egress {
		p.egressProgram, p.hook = cgroupskb.ObjectsProgFlFallEgress, holding[chosen]
		p.queue = &qdisc.Params{Delay: longestFallen}
	}
	if reorder.GetPercent() == 100 && req.Spec.GetRate() == nil {
		p.warn("all packets are to fall back: none is left that could pass them, and they only come later")
	}
	what := fmt.Sprintf("let %%v %%%% of the packets fall back behind %s", counted(p.gap, "later one"))
	return p.finish(chosen, describeShare(what, reorder))
}

// counted is a number with what it counts.
func counted(n uint32, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

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
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/qdisc"
)

// Latency is networkLatency: packets that come later, as from far away.
func Latency() fault.Kind {
	return fault.Kind{
		Name:       "networkLatency",
		Summary:    "delays packets, with jitter and its distribution",
		Scope:      fault.ScopeCgroup,
		Mechanisms: append(held(), byNetem(), byIFB()),
		Example: `name: far away database
target: {systemdUnit: checkout.service}
networkLatency: {delay: 100ms, jitter: 10ms, distribution: NORMAL}
filter: {peers: [10.0.0.0/8], ports: ["5432"], protocol: TCP}
duration: 60s`,
		Validate: validateLatency,
		Plan:     planLatency,
	}
}

func validateLatency(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "networkLatency"}
	p.Delay(spec.GetNetworkLatency(), false)
	return append(p.List(), filter.Validate(spec.GetFilter())...)
}

func planLatency(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p, err := newPlan(ctx, "networkLatency", req)
	if err != nil {
		return nil, err
	}
	delay, err := dice.NewDelay(req.Seed, req.Spec.GetNetworkLatency())
	if err != nil {
		return nil, err
	}
	queue := qdisc.Params{Delay: delay.Longest()}
	chosen, err := p.direct(ctx, Latency(), received{
		bySocket: inbound.ObjectsProgFlInHold, all: inbound.ObjectsProgFlInHoldAll, queue: queue,
	}, mechanismTCXFQ, mechanismClsFQ, mechanismNetem)
	if err != nil {
		return nil, err
	}
	if chosen != mechanismNetem || p.filter.Ingress {
		p.delay = &delay
	}
	switch {
	case chosen == mechanismNetem:
		p.emulate(qdisc.Netem{
			Delay: time.Duration(delay.Delay), Jitter: time.Duration(delay.Jitter), Longest: delay.Longest(),
			Correlation: uint32(min(delay.Correlation, math.MaxUint32)), Table: delay.Table.Netem(),
		}, delay.Longest())
	case p.filter.Egress:
		p.egressProgram, p.hook, p.queue = cgroupskb.ObjectsProgFlHoldEgress, holding[chosen], &queue
	}
	return p.finish(chosen, describeLatency(req.Spec.GetNetworkLatency()))
}

func describeLatency(latency *v1.NetworkLatency) string {
	text := "delay packets by " + units.FormatDuration(latency.GetDelay().AsDuration())
	jitter := latency.GetJitter().AsDuration()
	if jitter == 0 {
		return text
	}
	shape := latency.GetTable()
	if shape == "" {
		shape = latency.GetDistribution().String()
	}
	return fmt.Sprintf("%s, jitter %s (%s)", text, units.FormatDuration(jitter), shape)
}

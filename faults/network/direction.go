package network

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/netns"
)

// mechanismIFB is what holds received packets.
const mechanismIFB = "ifb"

// byIFB is the row of received packets in the ladders.
func byIFB() fault.Mechanism {
	return fault.Mechanism{
		Name:    mechanismIFB,
		Summary: "received packets: a cls_bpf filter looks up whose they are, a clone waits in the fq of an ifb interface of its own, behind a journal record",
		Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB, kernel.ClsBPF, kernel.FQ, kernel.IFB},
	}
}

// direct chooses the mechanism of each direction of the filter; ladder is that
// of sent packets. sent is "" where they are left alone.
func (p *plan) direct(ctx context.Context, kind fault.Kind, r received, ladder ...string) (sent string, err error) {
	named := p.req.Spec.GetMechanism()
	if p.filter.Egress {
		if named == mechanismIFB {
			return "", fmt.Errorf("mechanism %s is for received packets; name one for those that are sent, or write direction: INGRESS", named)
		}
		if sent, err = p.choose(ctx, kind, ladder...); err != nil {
			return "", err
		}
	}
	if !p.filter.Ingress {
		return sent, nil
	}
	if p.pinned() {
		return "", fmt.Errorf("persistence PINNED of %s of received packets is %w; leave persistence out, or write direction: EGRESS", p.kind, fault.ErrNotBuilt)
	}
	req := p.req
	if p.filter.Egress {
		// What is named is for the other direction.
		req.Spec = proto.Clone(req.Spec).(*v1.Fault)
		req.Spec.Mechanism = ""
	} else if named != "" && named != "auto" && named != mechanismIFB {
		return "", fmt.Errorf("mechanism %s is for sent packets; received ones have %s, write that or leave it out", named, mechanismIFB)
	}
	if _, err := fault.Choose(ctx, req, kind, mechanismIFB); err != nil {
		return "", err
	}
	if answer := p.req.Prober.Probe(ctx, kernel.BTF); !answer.OK() {
		p.noOwner = fmt.Errorf("whose received packets are is %w: %s", fault.ErrUnavailable, answer.Reason)
	}
	p.received = &r
	return sent, nil
}

// mechanisms names those of both directions.
func (p *plan) mechanisms(sent string) string {
	received := ""
	switch {
	case p.received != nil:
		received = mechanismIFB
	case p.hook != nil && p.ingressProgram != "":
		received = mechanismCgroupSKB
	}
	if sent == "" || received == "" {
		return sent + received
	}
	return sent + "+" + received
}

// receivedChanges are those at the ingress of the interfaces.
func (p *plan) receivedChanges() (list []*v1.Change, err error) {
	if p.received == nil {
		return nil, nil
	}
	namespaces, err := netns.Of(p.req.Cgroups)
	if err != nil {
		return nil, err
	}
	defer func() { _ = netns.CloseAll(namespaces) }()
	for _, ns := range namespaces {
		changes, err := p.receivedIn(ns)
		if err != nil {
			return nil, err
		}
		list = append(list, changes...)
	}
	_, unstamp, err := ifb.Stamping()
	if err != nil || unstamp == "" {
		return list, err
	}
	for _, cgroup := range p.req.Cgroups {
		list = append(list, &v1.Change{
			Object: "cgroup " + cgroup.Path, Action: fmt.Sprintf("attach program %s to cgroup_skb ingress", unstamp), Undo: undoByKernel,
		})
	}
	return list, nil
}

func (p *plan) receivedIn(ns *netns.Namespace) ([]*v1.Change, error) {
	stranger, err := ns.Stranger(p.req.Cgroups)
	if err != nil {
		return nil, err
	}
	if stranger != "" && p.noOwner != nil {
		return nil, fmt.Errorf("the target shares its network namespace with process %s: %w", stranger, p.noOwner)
	}
	interfaces, err := incoming(ns)
	if err != nil {
		return nil, err
	}
	list := []*v1.Change{{
		Object: ns.String(), Action: "make an ifb interface with qdisc fq, in which received packets wait", Undo: undoJournal,
	}}
	program := p.received.bySocket
	if stranger == "" {
		program = p.received.all
	}
	for _, i := range interfaces {
		foreign, err := ifb.Foreign(i.namespace, i.index)
		if endedMeanwhile(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, text := range foreign {
			p.warn("%s has %s at its ingress: packets that it takes, or accepts for good, are not hit", i, text)
		}
		list = append(list, &v1.Change{
			Object: i.String(),
			Action: fmt.Sprintf("add clsact, where it is missing, and to ingress cls_bpf filters with program %s that lead a clone of the target's packets to the ifb interface", program),
			Undo:   undoJournal,
		})
	}
	return list, nil
}

package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
)

// choose is fault.Choose for ladders that end in a qdisc which does it all.
// Such a one changes the way of everybody's packets, and is for targets only
// that have a network namespace of their own.
func (p *plan) choose(ctx context.Context, kind fault.Kind, ladder ...string) (string, error) {
	chosen, err := fault.Choose(ctx, p.req, kind, ladder...)
	if err != nil || chosen != mechanismNetem && chosen != mechanismTBF {
		return chosen, err
	}
	reason := p.notAlone()
	if reason == nil && p.pinned() {
		reason = fmt.Errorf("persistence PINNED with mechanism %s is %w", chosen, fault.ErrNotBuilt)
	}
	if reason == nil {
		return chosen, nil
	}
	if named := p.req.Spec.GetMechanism(); named == chosen {
		return "", fmt.Errorf("mechanism %s: %w", chosen, reason)
	}
	// Why it has come to that.
	_, above := fault.Choose(ctx, p.req, kind, ladder[:len(ladder)-1]...)
	return "", fmt.Errorf("%w; %s: %w", above, chosen, reason)
}

// notAlone says which process shares a network namespace with the target.
func (p *plan) notAlone() (err error) {
	namespaces, err := netns.Of(p.req.Cgroups)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, netns.CloseAll(namespaces)) }()
	if len(namespaces) == 0 {
		return fmt.Errorf("whether the target has a network namespace of its own is not known while it has no processes, so that it is %w", fault.ErrUnavailable)
	}
	for _, ns := range namespaces {
		stranger, err := ns.Stranger(p.req.Cgroups)
		if err != nil {
			return err
		}
		if stranger != "" {
			return fmt.Errorf("the target shares its network namespace with process %s, whose packets would go through the same qdisc: it is %w", stranger, fault.ErrUnavailable)
		}
	}
	return nil
}

// emulate lets a qdisc do it.
func (p *plan) emulate(e qdisc.Emulation, longest time.Duration) {
	p.egressProgram, p.hook = cgroupskb.ObjectsProgFlSteerEgress, emulating
	p.emulation, p.queue = e, &qdisc.Params{Delay: longest}
}

func (p *plan) emulationChanges(i iface) ([]*v1.Change, error) {
	view, err := qdisc.LookToEmulate(i.namespace, i.index, p.emulation)
	if err != nil {
		return nil, err
	}
	p.warnings = append(p.warnings, view.Warnings...)
	return []*v1.Change{{Object: i.String(), Action: view.Emulating(p.emulation), Undo: view.Undo()}}, nil
}

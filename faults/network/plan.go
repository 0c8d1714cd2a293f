// Package network holds the faults of what a cgroup sends and receives.
//
// Every packet of the target is decided about once, at the cgroup's own hook
// (bpf/cgroupskb), which sees nobody else's. What is to be lost, held or sent
// twice on its way out is marked there, and the interface does it (bpf/tc).
package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
)

// Kinds are all of the family, in the order of the contract.
func Kinds() []fault.Kind {
	return []fault.Kind{Loss(), Partition(), Latency(), Duplicate(), Corrupt(), Reorder(), Bandwidth()}
}

// plan collects what the faults of the family have in common.
type plan struct {
	// kind is the fault's name in the document.
	kind   string
	req    fault.Request
	filter filter.Filter
	dice   dice.Config
	peers  *filter.Peers

	// Programs of bpf/cgroupskb; "" where the direction is not touched.
	egressProgram, ingressProgram string
	// delay says how long packets are held, shape how fast they may leave; nil
	// when they are not. gap is how many packets one falls back; 0 when none
	// does.
	delay *dice.Delay
	shape *shape
	gap   uint32
	// wrong: packets are damaged, and their checksums left as they were.
	wrong bool
	// queue is what the fq qdisc has to be able to hold; nil when nothing waits.
	queue *qdisc.Params
	// emulation is in the place of fq, and does what was decided; nil for none.
	emulation qdisc.Emulation
	// hook does at the interface what the cgroup's hook decided; nil when that
	// drops.
	hook *hook
	// hitAtCgroup: the cgroup's program alone knows which packets were hit, and
	// what was done at the interface to a packet does not tell.
	hitAtCgroup bool
	// received is what happens to packets that come in, where that does not end
	// at the cgroup's hook; nil otherwise. noOwner says why the kernel can't tell
	// whose they are; nil where it can.
	received *received
	noOwner  error

	warnings []string
}

// Who takes a change back.
const (
	undoByKernel = "kernel (the link ends with the process)"
	undoJournal  = "journal"
	undoPinned   = "journal; without an agent the lease in the kernel ends it"
)

// pinned tells whether the fault is to outlive the process.
func (p *plan) pinned() bool { return p.req.Spec.GetPersistence() == v1.Fault_PINNED }

func (p *plan) undo(otherwise string) string {
	if p.pinned() {
		return undoPinned
	}
	return otherwise
}

func newPlan(ctx context.Context, kind string, req fault.Request) (*plan, error) {
	parsed, problems := filter.Parse(req.Spec.GetFilter())
	if len(problems) > 0 {
		var errs []error
		for _, problem := range problems {
			errs = append(errs, problem)
		}
		return nil, errors.Join(errs...)
	}
	p := &plan{kind: kind, req: req, filter: parsed, dice: dice.New(req.Seed, req.Spec)}
	if p.pinned() {
		if err := pin.Available(); err != nil {
			return nil, fmt.Errorf("persistence PINNED is %w: %w", fault.ErrUnavailable, err)
		}
	}
	if err := fault.CheckTargets(req.Cgroups); err != nil {
		return nil, err
	}
	peers, err := filter.NewPeers(ctx, &p.filter, req.Resolver)
	if err != nil {
		return nil, err
	}
	p.peers = peers
	return p, nil
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// claim lets other faults of the run hit the same packets, where what is decided
// is done at the interface. What is lost of received packets is lost after that.
func (p *plan) claim() Packets {
	c := Packets{Cgroups: p.req.Cgroups, Filter: p.req.Spec.GetFilter(), Peers: p.peers.List()}
	sent := !p.filter.Egress || p.hook != nil
	come := !p.filter.Ingress || p.received != nil || p.ingressProgram == cgroupskb.ObjectsProgFlDropIngress && p.kind == "networkLoss"
	if sent && come {
		c.Effect = p.kind
	}
	return c
}

// finish lists the changes.
func (p *plan) finish(mechanism, what string) (*fault.Plan, error) {
	out := &fault.Plan{
		Mechanism: p.mechanisms(mechanism),
		Claims:    []fault.Claim{p.claim()},
		Inject:    p.inject,
		Adopt:     p.adopt,
	}
	if p.pinned() {
		out.Changes = append(out.Changes, &v1.Change{
			Object: "directory in " + pin.Root,
			Action: "pin the maps, programs and links of the fault",
			Undo:   undoPinned,
		})
	}
	for _, cgroup := range p.req.Cgroups {
		for _, program := range []struct{ hook, name string }{{"egress", p.egressProgram}, {"ingress", p.ingressProgram}} {
			if program.name == "" {
				continue
			}
			out.Changes = append(out.Changes, &v1.Change{
				Object: "cgroup " + cgroup.Path,
				Action: fmt.Sprintf("attach program %s to cgroup_skb %s", program.name, program.hook),
				Undo:   p.undo(undoByKernel),
			})
		}
	}
	changes, err := p.interfaceChanges()
	if err != nil {
		return nil, err
	}
	out.Changes = append(out.Changes, changes...)
	if changes, err = p.receivedChanges(); err != nil {
		return nil, err
	}
	out.Changes = append(out.Changes, changes...)
	out.Warnings = p.warnings
	out.Summary = p.summary(what)
	return out, nil
}

func (p *plan) interfaceChanges() (list []*v1.Change, err error) {
	if p.hook == nil {
		return nil, nil
	}
	namespaces, err := netns.Of(p.req.Cgroups)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, netns.CloseAll(namespaces)) }()
	if len(namespaces) == 0 {
		p.warn("the target has no processes now; interfaces are added as soon as it has some")
	}
	for _, ns := range namespaces {
		interfaces, err := outgoing(ns, p.peers.List())
		if err != nil {
			return nil, err
		}
		for _, i := range interfaces {
			changes, err := p.queueChanges(i)
			if err != nil {
				return nil, err
			}
			list = append(list, changes...)
			if p.emulation == nil {
				list = append(list, &v1.Change{Object: i.String(), Action: p.hook.action(), Undo: p.undo(p.hook.way.undo)})
			}
		}
	}
	return list, nil
}

// queueChanges are those that give an interface a queue in which packets can be
// held.
func (p *plan) queueChanges(i iface) ([]*v1.Change, error) {
	if p.queue == nil {
		return nil, nil
	}
	if p.emulation != nil {
		return p.emulationChanges(i)
	}
	view, err := qdisc.Look(i.namespace, i.index, *p.queue)
	if err != nil {
		return nil, err
	}
	p.warnings = append(p.warnings, view.Warnings...)
	if view.State == qdisc.Foreign {
		return nil, nil
	}
	return []*v1.Change{{Object: i.String(), Action: view.Action(), Undo: view.Undo()}}, nil
}

// summary is the fault in one sentence.
func (p *plan) summary(what string) string {
	var parts []string
	switch {
	case p.filter.Egress && p.filter.Ingress:
		parts = append(parts, "sent and received")
	case p.filter.Ingress:
		parts = append(parts, "received")
	default:
		parts = append(parts, "sent")
	}
	parts = append(parts, filter.Describe(p.req.Spec.GetFilter())...)
	exempt := p.exempt()
	if p.filter.ExemptSSH && (p.filter.Protocol == v1.Filter_TCP || p.filter.Protocol == v1.Filter_PROTOCOL_UNSPECIFIED) {
		parts = append(parts, "not TCP port 22")
	}
	if len(exempt) > 0 {
		parts = append(parts, "not the control plane")
	}
	text := what + ": " + strings.Join(parts, "; ")
	if p.req.Observe {
		text = "only count: " + text
	}
	return text
}

// exempt are the addresses that are never touched.
func (p *plan) exempt() []netip.AddrPort { return p.peers.Exempt(p.req.Exempt) }

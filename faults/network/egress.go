package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"faultline.dev/faultline/bpf/tc"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
)

// hookFunc puts the program on the egress of one interface and returns the way
// back. On an error nothing is left.
type hookFunc func(ctx context.Context, e *egress, i iface) (unhookFunc, error)

type unhookFunc func(context.Context) error

// hook does at an interface what was decided about marked packets.
type hook struct {
	// program is the name of its program in bpf/tc; "" where a qdisc does it.
	program string
	way     way
}

// action says what it does to an interface.
func (h *hook) action() string { return fmt.Sprintf(h.way.action, h.program) }

// way is a way to attach a program.
type way struct {
	// action is a format that takes the program's name.
	action string
	// undo says who takes it back.
	undo   string
	attach hookFunc
	// links: what it attaches is a link, and pinned with the fault.
	links bool
}

var (
	byTCX   = way{"attach program %s as a tcx link to egress", undoByKernel, attachTCX, true}
	byQdisc = way{"", "", attachNothing, false}
	byCls   = way{"add clsact, where it is missing, and a cls_bpf filter with program %s to egress", undoJournal, attachCls, false}
)

// The hooks by their mechanisms: where no packet waits, where some do and need the
// fq qdisc, and where some are damaged.
var (
	passing = map[string]*hook{
		mechanismTCX:    {tc.ObjectsProgFlTcxEgress, byTCX},
		mechanismClsBPF: {tc.ObjectsProgFlClsEgress, byCls},
	}
	holding = map[string]*hook{
		mechanismTCXFQ: {tc.ObjectsProgFlTcxHold, byTCX},
		mechanismClsFQ: {tc.ObjectsProgFlClsHold, byCls},
	}
	damaging = map[string]*hook{
		mechanismTCX:    {tc.ObjectsProgFlTcxDamage, byTCX},
		mechanismClsBPF: {tc.ObjectsProgFlClsDamage, byCls},
	}
	// emulating has no program at the interface.
	emulating = &hook{"", byQdisc}
)

// attachNothing is for a qdisc that does all by itself.
func attachNothing(context.Context, *egress, iface) (unhookFunc, error) {
	return func(context.Context) error { return nil }, nil
}

// attachTCX makes a link that ends with its descriptor, unless it is pinned. It
// goes before all other programs: one that comes first and passes the packet on
// ends the chain.
func attachTCX(_ context.Context, e *egress, i iface) (unhookFunc, error) {
	var l link.Link
	err := i.namespace.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: i.index,
			Program:   e.program,
			Attach:    ebpf.AttachTCXEgress,
			Anchor:    link.Head(),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attaching to %s: %w", i, err)
	}
	failpoint.Hit(failpoint.TCXAttached)
	if e.pins != nil {
		if err := e.pins.Pin(tcxPin(i), l); err != nil {
			return nil, errors.Join(err, detach(l))
		}
	}
	return func(context.Context) error { return detach(l) }, nil
}

func attachCls(ctx context.Context, e *egress, i iface) (unhookFunc, error) {
	undone, err := addTCFilter(ctx, i, e.program, e.rec)
	if err != nil {
		return nil, err
	}
	return undone.Undo, nil
}

// egress keeps the hooks on the interfaces by which the target's packets
// leave.
type egress struct {
	hook    hook
	program *ebpf.Program
	rec     fault.Recorder
	own     *own
	// pins is nil for a fault that ends with its process.
	pins    *pin.Pins
	cgroups []fault.Cgroup

	// queue is what the fq qdisc has to be able to hold; nil for a fault that
	// holds nothing.
	queue *qdisc.Params
	// emulation is in the place of that fq; nil for none.
	emulation qdisc.Emulation
	log       *slog.Logger

	hooked map[place]unhookFunc
	holds  map[place]*qdisc.Hold
	// rest is what an earlier process has left that hooks nothing any more.
	rest []unhookFunc
	// held are the namespaces that are kept open for the hooks in them.
	held map[uint64]*netns.Namespace
}

// place identifies an interface while its namespace is held.
type place struct {
	netns uint64
	index int
}

// refresh hooks the interfaces that have no hook yet, and sees to it that those
// that need an fq qdisc still have it. It never lets one go: the kernel does
// that when the interface ends.
func (e *egress) refresh(ctx context.Context, peers *filter.Peers) error {
	found, err := netns.Of(e.cgroups)
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range found {
		if held := e.held[ns.Inode]; held != nil {
			_ = ns.Close()
			ns = held
		} else {
			e.held[ns.Inode] = ns
		}
		errs = append(errs, e.refreshNamespace(ctx, ns, peers))
	}
	return errors.Join(errs...)
}

func (e *egress) refreshNamespace(ctx context.Context, ns *netns.Namespace, peers *filter.Peers) error {
	interfaces, err := outgoing(ns, peers.List())
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range interfaces {
		at := place{ns.Inode, i.index}
		if e.hooked[at] == nil {
			err = e.hookAt(ctx, i, at)
		} else {
			err = e.makeQueue(at)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hookAt hooks one interface. The undo of its qdisc is written down first and
// run last; fq itself comes after the program, by which others see that it is
// needed.
func (e *egress) hookAt(ctx context.Context, i iface, at place) error {
	if err := e.rec.Watch(watchInterface(i, e.own)); err != nil {
		return err
	}
	if e.queue != nil && e.holds[at] == nil {
		hold, err := e.reserve(i)
		if err != nil {
			return err
		}
		e.holds[at] = hold
	}
	unhook, err := e.hook.way.attach(ctx, e, i)
	if err != nil {
		return err
	}
	e.hooked[at] = unhook
	return e.makeQueue(at)
}

func (e *egress) reserve(i iface) (*qdisc.Hold, error) {
	if e.emulation != nil {
		return qdisc.ReserveEmulation(i.namespace, i.index, e.program, e.emulation, e.rec)
	}
	return qdisc.Reserve(i.namespace, i.index, e.program, *e.queue, e.rec)
}

func (e *egress) makeQueue(at place) error {
	hold := e.holds[at]
	if hold == nil {
		return nil
	}
	_, err := hold.Make(*e.queue)
	if errors.Is(err, fault.ErrGone) {
		return nil // the interface has ended
	}
	return err
}

// drainSlack is how long packets may be late to leave the queue.
const drainSlack = 100 * time.Millisecond

// removeQueues lets those packets go that still wait, and takes back the qdiscs.
func (e *egress) removeQueues(ctx context.Context) error {
	if len(e.holds) == 0 {
		return nil
	}
	var errs []error
	waiting, cancel := context.WithTimeout(ctx, e.queue.Delay+drainSlack)
	defer cancel()
	for at, hold := range e.holds {
		left, err := hold.Drain(waiting)
		errs = append(errs, err)
		if left > 0 {
			e.log.Warn("packets that were held are lost with their queue", "packets", left, "netns", at.netns, "interface", at.index)
		}
		if err := hold.Undo(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(e.holds, at)
	}
	return errors.Join(errs...)
}

// revert takes every hook back. What failed can be tried again.
func (e *egress) revert(ctx context.Context) error {
	var errs []error
	for at, unhook := range e.hooked {
		if err := unhook(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(e.hooked, at)
	}
	if len(errs) == 0 {
		errs = append(errs, e.removeQueues(ctx))
	}
	// Older than all that is in hooked: last.
	var open []unhookFunc
	for _, unhook := range e.rest {
		if err := unhook(ctx); err != nil {
			errs = append(errs, err)
			open = append(open, unhook)
		}
	}
	e.rest = open
	return errors.Join(errs...)
}

// release closes what was held open.
func (e *egress) release() error {
	var errs []error
	for inode, ns := range e.held {
		errs = append(errs, ns.Close())
		delete(e.held, inode)
	}
	return errors.Join(errs...)
}

package qdisc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// Hold is one fault's use of fq at one interface. Its methods are called one at
// a time.
type Hold struct {
	ns     *netns.Namespace
	root   Root
	undone fault.Undone
	// emulation stands in the place of fq; nil for fq.
	emulation Emulation
}

// Reserve records the undo of an fq at the egress of an interface, and changes
// nothing yet. Program is the one that will need it there; it must not be
// attached yet. Its name begins with ProgramTCX or ProgramCls, and it has a map
// LeaseMap, whose deadline stays 0 until Make has returned.
//
// Where somebody else's fq is used there is a record too: it may be replaced
// while the fault lasts, and then this fault may be the last to use what comes.
//
// The namespace has to be open as long as the Hold is used. The errors are
// those of Look.
func Reserve(ns *netns.Namespace, index int, program *ebpf.Program, params Params, rec fault.Recorder) (*Hold, error) {
	lease, err := leaseOf(program)
	if err != nil {
		return nil, err
	}
	at, err := linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	view, err := Look(ns, index, params)
	if err != nil {
		return nil, err
	}
	h := &Hold{ns: ns, root: Root{
		NetNS: ns.Inode, Interface: at.Attrs().Name, Index: index, Mark: view.mark, Lease: lease,
	}}
	if view.mark == MarkExplicit {
		h.root.Before = view.Tree
		// From the moment at which it is attached: who has told so far may leave.
		if err := tell(program, before{ns.Inode, index, view.Tree}); err != nil {
			return nil, err
		}
	}
	if h.undone, err = rec.Record(h.root); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.QdiscRecorded)
	return h, nil
}

// Resume is the Hold of a record that an earlier process has left open, for a
// fault that is taken over from it with its programs.
func Resume(ns *netns.Namespace, record Root, undone fault.Undone) *Hold {
	return &Hold{ns: ns, root: record, undone: undone}
}

// Make sees to it that there is an fq at the root that can hold what Params
// say, and returns its limits. The program is attached to the egress by now. A
// fault that calls it again (fault.Injection.Refresh) gets back an fq that
// somebody has removed meanwhile, and one for queues that the device has got
// since.
//
// Limits of an fq of ours that is there already only grow. One that is
// somebody else's is not touched: a delay beyond its horizon is
// fault.ErrUnavailable, as is a root that is neither what Reserve has seen nor
// ours. After an error Undo takes back what was done.
func (h *Hold) Make(params Params) (limits Limits, err error) {
	wanted, err := params.limits()
	if err != nil {
		return Limits{}, err
	}
	err = h.ns.Exclusively(func() (err error) {
		if h.emulation != nil {
			limits = wanted
			return h.emulate()
		}
		limits, err = h.make(params, wanted)
		return err
	})
	if err != nil {
		return Limits{}, fmt.Errorf("giving interface %s in %s a queue: %w", h.root.Interface, h.ns, err)
	}
	return limits, nil
}

func (h *Hold) make(params Params, wanted Limits) (Limits, error) {
	at, err := linkAt(h.ns, h.root.Index)
	if err != nil {
		return Limits{}, err
	}
	users, err := usersOf(h.ns, at)
	if err != nil {
		return Limits{}, err
	}
	// Without it, nobody would know that this fq is used.
	if !h.attached(users) {
		return Limits{}, errors.New("the program that needs it is not attached to the egress")
	}
	view, err := look(h.ns, h.root.Index)
	if err != nil {
		return Limits{}, err
	}
	if view.State == Foreign {
		return view.Limits, view.allows(params)
	}
	if view.mark != h.root.Mark || view.mark == MarkExplicit && !view.Tree.same(h.root.Before) {
		return Limits{}, refused("its qdisc was replaced meanwhile (there is %s)", view.current.kind())
	}
	if view.State != Shared {
		if err := h.replace(view, wanted); err != nil {
			return Limits{}, err
		}
	}
	return h.fill(wanted)
}

func (h *Hold) attached(users []user) bool {
	for _, u := range users {
		if u.lease == h.root.Lease {
			return true
		}
	}
	return false
}

// replace makes our root.
func (h *Hold) replace(view *View, limits Limits) error {
	root := Qdisc{Kind: kindFQ, Handle: view.mark, Parent: netlink.HANDLE_ROOT, Options: limits.options()}
	if before := view.Tree.root(); before != nil && before.Kind == kindMQ {
		root.Kind, root.Options = kindMQ, nil
	}
	flags := onlyDefault
	if view.State == Explicit {
		flags = instead
	}
	if err := put(h.ns, h.root.Index, root, flags); err != nil {
		return fmt.Errorf("replacing %s with %s: %w", view.Tree.kind(), root.Kind, missing(root.Kind, err))
	}
	failpoint.Hit(failpoint.QdiscReplaced)
	return nil
}

// fill gives each queue of our mq an fq, and each fq of ours what it lacks.
func (h *Hold) fill(wanted Limits) (Limits, error) {
	tree, err := treeOf(h.ns, h.root.Index)
	if err != nil {
		return Limits{}, err
	}
	for _, q := range tree {
		if err := h.fillOne(q, wanted); err != nil {
			return Limits{}, err
		}
	}
	if tree, err = treeOf(h.ns, h.root.Index); err != nil {
		return Limits{}, err
	}
	if len(tree) == 0 || !allFQ(tree) {
		return Limits{}, refused("its qdisc was replaced meanwhile")
	}
	return limitsOfTree(tree), nil
}

func (h *Hold) fillOne(q Qdisc, wanted Limits) error {
	switch {
	case q.Kind == kindMQ:
		return nil
	case q.Kind == kindFQ && q.byDefault():
		// Of the kernel, where that makes fq by default: it can't be changed,
		// and goes with our mq.
	case q.Kind == kindFQ:
		has := limitsOf(q.Options)
		more := has.atLeast(wanted)
		if more == has {
			return nil
		}
		q.Options, q.SizeTable = more.options(), nil
		if err := put(h.ns, h.root.Index, q, change); err != nil {
			return fmt.Errorf("raising the limits of fq (%s): %w", name(q.Handle), err)
		}
		return nil
	case !q.byDefault():
		return refused("somebody has put a %s (%s) below ours", q.Kind, name(q.Handle))
	}
	// The kernel chooses the handle.
	leaf := Qdisc{Kind: kindFQ, Parent: q.Parent, Options: wanted.options()}
	if err := put(h.ns, h.root.Index, leaf, onlyDefault); err != nil {
		return fmt.Errorf("adding fq at %s: %w", name(q.Parent), missing(kindFQ, err))
	}
	failpoint.Hit(failpoint.QdiscReplaced)
	return nil
}

// drainPoll is how often Drain looks: packets leave by the microsecond.
const drainPoll = 5 * time.Millisecond

// Drain waits until no packet waits at the interface, or ctx is done; both are
// no error. What waits when fq is removed is lost, the delayed and everybody
// else's. It is called after nothing more is delayed and before Undo. It
// returns how many packets are still there.
func (h *Hold) Drain(ctx context.Context) (left int, err error) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		tree, err := treeOf(h.ns, h.root.Index)
		if err != nil {
			return 0, err
		}
		if len(tree) == 0 || !ours(tree[0]) || tree[0].statistics.Length == 0 {
			return 0, nil
		}
		select {
		case <-ctx.Done():
			return int(tree[0].statistics.Length), nil
		case <-ticker.C:
		}
	}
}

// Drops is how many packets the fq has lost to its limits since it was made,
// whosesoever they were.
func (h *Hold) Drops() (uint64, error) {
	tree, err := treeOf(h.ns, h.root.Index)
	if err != nil || len(tree) == 0 {
		return 0, err
	}
	return uint64(tree[0].statistics.Drops), nil
}

// Undo implements fault.Undone: Root.Undo of the record. It takes the fault's
// programs off the interface.
func (h *Hold) Undo(ctx context.Context) error { return h.undone.Undo(ctx) }

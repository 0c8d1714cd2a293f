package qdisc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// Root undoes a qdisc of ours at the root of an interface, unless another fault
// uses it.
type Root struct {
	// NetNS is the inode of the network namespace.
	NetNS     uint64 `json:"netns"`
	Interface string `json:"interface"`
	// Index finds the interface, also after it was renamed.
	Index int `json:"index"`
	// Mark is MarkDefault, MarkExplicit or MarkEmulated.
	Mark uint32 `json:"mark"`
	// Lease is the id of the map of the fault's programs; 0 is nobody's. The
	// kernel gives an id again only after two thousand million others.
	Lease ebpf.MapID `json:"lease,omitempty"`
	// Before is what somebody had made and was replaced; nil when that is not
	// known, and when it was the kernel's default.
	Before Tree `json:"before,omitempty"`
}

// RootKind is the name of Root in the journal.
const RootKind = "qdisc"

// Kind implements fault.Undo.
func (Root) Kind() string { return RootKind }

// Describe implements fault.Undo.
func (r Root) Describe() string {
	what := "fq"
	if r.Mark == MarkEmulated {
		what = kindPrio
	}
	at := fmt.Sprintf("remove qdisc %s from the root of interface %s (index %d) in netns %d unless another fault uses it", what, r.Interface, r.Index, r.NetNS)
	switch {
	case r.Mark == MarkDefault, r.Mark == MarkEmulated && r.Before == nil:
		return at + "; the kernel then makes its default again"
	case r.Before == nil:
		return at + "; what somebody had made there before is not known any more, and the kernel then makes its default"
	default:
		return fmt.Sprintf("%s, and make %s (%s) again", at, r.Before.kind(), name(r.Before[0].Handle))
	}
}

// Survives implements fault.Undo.
func (Root) Survives() bool { return false }

// Undo implements fault.Undo. A namespace or interface that is gone has nothing
// to undo, and a root that somebody else has made is left alone. First the
// programs of the fault are taken off the interface.
func (r Root) Undo(context.Context) error {
	ns, err := netns.Find(r.NetNS)
	if err != nil || ns == nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	err = ns.Exclusively(func() error { return r.undo(ns) })
	// It may end at any moment.
	if gone(err) {
		return nil
	}
	return err
}

// gone tells whether an error is that the interface has ended.
func gone(err error) bool { return errors.Is(err, fault.ErrGone) || errors.Is(err, unix.ENODEV) }

func (r Root) undo(ns *netns.Namespace) error {
	at, err := linkAt(ns, r.Index)
	if err != nil {
		return err
	}
	users, err := usersOf(ns, at)
	if err != nil {
		return err
	}
	return errors.Join(leave(ns, users, r.Lease), r.putBack(ns, users))
}

func (r Root) putBack(ns *netns.Namespace, users []user) error {
	tree, err := treeOf(ns, r.Index)
	if err != nil || len(tree) == 0 {
		return err
	}
	ours := ours(tree[0]) && tree[0].Handle == r.Mark
	// A process that died while it made an mq again has left its leaves.
	half := r.Before != nil && tree[0].same(r.Before[0])
	if !ours && !half {
		return nil
	}
	if used, err := inUse(users, r.Lease); err != nil || used {
		return err
	}
	if r.Before == nil {
		return r.toDefault(ns)
	}
	return r.restore(ns, tree)
}

// toDefault deletes the root. The kernel makes its default as long as the
// interface is up, and else as soon as it is.
func (r Root) toDefault(ns *netns.Namespace) error {
	if err := remove(ns, r.Index, r.Mark); err != nil {
		// The kernel compares the handle: somebody else may have been faster.
		tree, lookErr := treeOf(ns, r.Index)
		if lookErr == nil && (len(tree) == 0 || tree[0].Handle != r.Mark) {
			return nil
		}
		return r.failed(ns, errors.Join(fmt.Errorf("removing %s: %w", name(r.Mark), err), lookErr))
	}
	failpoint.Hit(failpoint.QdiscRestored)
	return nil
}

// restore makes what was there again, beginning where another process has
// ended, and compares. The kernel makes the leaves of an mq with it: those that
// somebody had made stand in the place of a default, and one that somebody has
// made there since is his.
func (r Root) restore(ns *netns.Namespace, now Tree) error {
	theirs := map[uint32]bool{}
	for i, q := range r.Before {
		if q.byDefault() || now.has(q) {
			continue
		}
		flags := onlyDefault
		if i == 0 {
			flags = instead
		}
		q.Options = again(q)
		err := put(ns, r.Index, q, flags)
		if i > 0 && errors.Is(err, unix.EEXIST) {
			theirs[q.Parent] = true
			continue
		}
		if err != nil {
			return r.failed(ns, fmt.Errorf("making %s (%s) again: %w", q.Kind, name(q.Handle), err))
		}
		failpoint.Hit(failpoint.QdiscRestored)
	}
	after, err := treeOf(ns, r.Index)
	if err != nil {
		return err
	}
	for _, q := range r.Before {
		if !q.byDefault() && !theirs[q.Parent] && !after.has(q) {
			return r.failed(ns, fmt.Errorf("made again, %s is not what was before; now there is %s", q, after))
		}
	}
	return nil
}

func (r Root) failed(ns *netns.Namespace, err error) error {
	return fmt.Errorf("putting back the qdisc of interface %s in %s: %w", r.Interface, ns, err)
}

func (t Tree) has(q Qdisc) bool { return slices.ContainsFunc(t, q.same) }

func treeOf(ns *netns.Namespace, index int) (Tree, error) {
	found, err := dump(ns, index)
	if err != nil {
		return nil, err
	}
	return egressTree(found[index]), nil
}

package qdisc

import (
	"errors"
	"maps"
	"slices"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// Remnants returns the undos of the roots that carry our mark in any network
// namespace, and that no fault of a live process uses: one that is alive has its
// program open. Processes of a PID namespace that can't be seen from here are
// not found. The undo of a MarkExplicit knows what was there before as long as
// a program is left that tells.
//
// They are to be undone after the programs: one that is pinned, or in a filter,
// uses the fq as long as its lease runs.
func Remnants() ([]fault.Undo, error) {
	var list []fault.Undo
	err := netns.Each(func(ns *netns.Namespace) error {
		found, err := dump(ns, 0)
		if err != nil {
			return err
		}
		var errs []error
		for _, index := range slices.Sorted(maps.Keys(found)) {
			tree := egressTree(found[index])
			if len(tree) == 0 || !ours(tree[0]) {
				continue
			}
			undo, err := remnant(ns, index, tree[0])
			if err != nil && !gone(err) {
				errs = append(errs, err)
			}
			if undo != nil {
				list = append(list, *undo)
			}
		}
		return errors.Join(errs...)
	})
	return list, err
}

func remnant(ns *netns.Namespace, index int, found Qdisc) (*Root, error) {
	at, err := linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	root := &Root{NetNS: ns.Inode, Interface: at.Attrs().Name, Index: index, Mark: found.Handle}
	if emulated(found) {
		if alive, err := steered(ns, index); err != nil || alive {
			return nil, err
		}
		return root, nil
	}
	users, err := usersOf(ns, at)
	if err != nil {
		return nil, err
	}
	if alive, err := held(users); err != nil || alive {
		return nil, err
	}
	if found.Handle == MarkExplicit {
		root.Before = known(users, ns, index)
	}
	return root, nil
}

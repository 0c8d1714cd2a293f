package network

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
)

// mine is something at an interface that carries our mark.
type mine struct {
	undo TCFilter
	// program of the filter; 0 for a clsact without a filter.
	program ebpf.ProgramID
}

// Remnants returns the undos of cls_bpf filters, and of clsacts without any
// filter, that carry our mark in any network namespace and that no live process
// owns: a run that is alive holds its program open. Processes of a PID namespace
// that can't be seen from here are not found. A clsact without the mark is
// somebody else's, and is left alone, filters of ours or not.
func Remnants() ([]fault.Undo, error) {
	var found []mine
	err := netns.Each(func(ns *netns.Namespace) error {
		list, err := marked(ns)
		found = append(found, list...)
		return err
	})
	if len(found) == 0 {
		return nil, err
	}
	held, heldErr := pin.HeldPrograms()
	if heldErr != nil {
		return nil, errors.Join(err, heldErr)
	}
	var list []fault.Undo
	for _, m := range found {
		if m.program == 0 || !held[m.program] {
			list = append(list, m.undo)
		}
	}
	return list, err
}

// marked lists what is ours in one namespace.
func marked(ns *netns.Namespace) ([]mine, error) {
	ours, err := clsact.List(ns)
	if err != nil || len(ours) == 0 {
		return nil, err
	}
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var list []mine
	var errs []error
	for _, index := range slices.Sorted(maps.Keys(ours)) {
		link, err := h.LinkByIndex(index)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("looking for interface %d in %s: %w", index, ns, err))
			continue
		}
		undo := TCFilter{NetNS: ns.Inode, Interface: link.Attrs().Name, Index: index}
		filters, err := clsact.All(h, link)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, filter := range filters {
			// Those at the ingress belong to a device (faults/ifb).
			name := clsact.Name(filter)
			if filter.Attrs().Parent == uint32(clsact.Egress) && strings.HasPrefix(name, clsact.Prefix) {
				undo.Name = name
				list = append(list, mine{undo, ebpf.ProgramID(filter.(*netlink.BpfFilter).Id)})
			}
		}
		if ours[index] && len(filters) == 0 {
			list = append(list, mine{undo: undo})
		}
	}
	return list, errors.Join(errs...)
}

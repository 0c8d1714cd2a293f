package ifb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
)

// mine is a device of ours, or what leads to one that is gone.
type mine struct {
	undo Undo
	// programs of its filters. A device whose maker died early has none.
	programs []ebpf.ProgramID
}

// Remnants returns the undos of devices in any network namespace that carry our
// mark and that no live process owns, and of filters whose device somebody else
// has removed. A run that is alive holds its programs open; processes of a PID
// namespace that can't be seen from here are not found.
func Remnants() ([]fault.Undo, error) {
	var found []mine
	err := netns.Each(func(ns *netns.Namespace) error {
		return ns.Exclusively(func() error {
			list, err := marked(ns)
			found = append(found, list...)
			return err
		})
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
		if !slices.ContainsFunc(m.programs, func(id ebpf.ProgramID) bool { return held[id] }) {
			list = append(list, m.undo)
		}
	}
	return list, err
}

// marked lists what is ours in one namespace.
func marked(ns *netns.Namespace) ([]mine, error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces of %s: %w", ns, err)
	}
	clsacts, err := clsact.List(ns)
	if err != nil {
		return nil, err
	}
	found := map[string]*mine{}
	get := func(name string) *mine {
		if found[name] == nil {
			found[name] = &mine{undo: Undo{NetNS: ns.Inode, Name: name}}
		}
		return found[name]
	}
	var errs []error
	for _, link := range links {
		if isOurs(link) {
			m := get(link.Attrs().Name)
			longest, err := m.look(h, link)
			m.undo.Longest = longest
			errs = append(errs, err)
			continue
		}
		if _, has := clsacts[link.Attrs().Index]; !has {
			continue
		}
		filters, err := clsact.All(h, link)
		errs = append(errs, err)
		for _, filter := range filters {
			if device, ok := deviceOf(clsact.Name(filter)); ok {
				m := get(device)
				m.programs = append(m.programs, ebpf.ProgramID(filter.(*netlink.BpfFilter).Id))
			}
		}
	}
	list := make([]mine, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[name])
	}
	return list, errors.Join(errs...)
}

// look finds the program on the device itself, and how long a packet can wait
// in it.
func (m *mine) look(h *netlink.Handle, link netlink.Link) (longest time.Duration, err error) {
	filters, err := clsact.Filters(h, link, clsact.Egress)
	if err != nil {
		return 0, err
	}
	for _, filter := range filters {
		if clsact.Name(filter) == stampFilter {
			m.programs = append(m.programs, ebpf.ProgramID(filter.(*netlink.BpfFilter).Id))
		}
	}
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return 0, fmt.Errorf("listing the qdiscs of %s: %w", link.Attrs().Name, err)
	}
	for _, qdisc := range qdiscs {
		if fq, ok := qdisc.(*netlink.Fq); ok {
			longest = time.Duration(fq.Horizon) * time.Microsecond
		}
	}
	return longest, nil
}

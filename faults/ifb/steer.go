package ifb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/netns"
)

// Steer puts choose, fl_in_choose of bpf/inbound, at the ingress of an
// interface, and leads clones of the packets that it matches to the device;
// swallow, fl_in_swallow, lets the packets themselves vanish. They stand behind
// all other filters: those see every packet first, as before, since a packet
// that comes back from the device passes no filter again. An interface that is
// steered already is left as it is, and with another program it is an error. The
// undo of the device covers it.
func (d *Device) Steer(index int, choose, swallow *ebpf.Program) error {
	h, err := d.ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("looking for interface %d in %s: %w", index, d.ns, err)
	}
	// Where the lock could not be had another run may take the clsact away as
	// idle before the filters are there; then there is an error.
	return d.ns.Exclusively(func() error {
		filters, err := clsact.Filters(h, link, clsact.Ingress)
		if err != nil {
			return err
		}
		name := steering(d.Name)
		if found, err := clsact.Find(filters, name, choose); found || err != nil {
			return err
		}
		if err := clsact.Ensure(d.ns, index); err != nil {
			return err
		}
		filter := clsact.Filter{
			Index: index, Side: clsact.Ingress, Priority: clsact.LastPriority(filters),
			Name: swallowing(d.Name), Program: swallow,
		}
		// Of one priority the latest is the first: no packet is cloned and not
		// swallowed.
		err = clsact.Add(d.ns, filter)
		if err == nil {
			filter.Name, filter.Program, filter.CloneTo = name, choose, d.Index
			err = clsact.Add(d.ns, filter)
		}
		if err != nil {
			return errors.Join(err, unsteer(d.ns, h, link, d.Name))
		}
		return nil
	})
}

// unsteer removes the filters of a device from an interface, in the order that
// Steer says. A clsact of ours that nobody needs any more goes with them.
func unsteer(ns *netns.Namespace, h *netlink.Handle, link netlink.Link, device string) error {
	for _, name := range []string{steering(device), swallowing(device)} {
		if err := clsact.Remove(h, link, clsact.Ingress, name); err != nil {
			return err
		}
	}
	return clsact.RemoveIdle(ns, h, link)
}

// Foreign lists what others have at the ingress of an interface: it sees packets
// before Steer's filters do, and what it accepts for good, redirects or drops
// these never see.
func Foreign(ns *netns.Namespace, index int) (list []string, err error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("looking for interface %d in %s: %w", index, ns, err)
	}
	filters, err := clsact.Filters(h, l, clsact.Ingress)
	if err != nil {
		return nil, err
	}
	for _, filter := range filters {
		name := clsact.Name(filter)
		// u32 and its like also list what is no filter of its own.
		if !strings.HasPrefix(name, clsact.Prefix) && filter.Attrs().Handle != 0 {
			list = append(list, strings.TrimSpace(fmt.Sprintf("tc filter %s, priority %d %s", filter.Type(), filter.Attrs().Priority, name)))
		}
	}
	err = ns.Do(func() error {
		found, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
		// Kernels before 6.6 have no TCX.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing the tcx programs of %s: %w", l.Attrs().Name, err)
		}
		for _, program := range found.Programs {
			list = append(list, fmt.Sprintf("tcx program %d", program.ID))
		}
		return nil
	})
	return list, err
}

// steering is the name of the filters that lead to a device.
func steering(device string) string { return clsact.Prefix + device }

// swallowing is the name of the filters behind those.
func swallowing(device string) string { return steering(device) + swallowSuffix }

// deviceOf is the device that a filter of one of these names belongs to.
func deviceOf(filter string) (device string, ok bool) {
	device, found := strings.CutPrefix(strings.TrimSuffix(filter, swallowSuffix), clsact.Prefix)
	return device, found && isName(device)
}

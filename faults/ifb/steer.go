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
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/netns"
)

// Programs are those of bpf/inbound at the ingress of an interface.
type Programs struct {
	// Choose is fl_in_hold or another one that decides about packets.
	Choose *ebpf.Program
	// Copy is fl_in_copy: clones of the packets that it matches are led to the
	// device.
	Copy *ebpf.Program
	// Take is fl_in_take, which lets the packets themselves vanish.
	Take *ebpf.Program
}

// The names of the filters at an interface are the device's, and end with these.
const (
	chooseSuffix = "-choose"
	copySuffix   = ""
	takeSuffix   = "-take"
)

// Steer puts the programs at the ingress of an interface. They stand behind all
// other filters: those see every packet first, as before, since a packet that
// comes back from the device passes no filter again. Copy and Take stand behind
// the Choose of all devices, so that any of these can do what all have decided.
// An interface that is steered already gets another Choose where it is
// another. The undo of the device covers it.
func (d *Device) Steer(index int, p Programs) error {
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
		if found, err := clsact.Find(filters, steering(d.Name)+copySuffix, p.Copy); err != nil {
			return err
		} else if found {
			return d.rechoose(h, link, filters, p.Choose)
		}
		if err := clsact.Ensure(d.ns, index); err != nil {
			return err
		}
		if err := d.steer(index, filters, p); err != nil {
			return errors.Join(err, unsteer(d.ns, h, link, d.Name))
		}
		return nil
	})
}

func (d *Device) steer(index int, filters []netlink.Filter, p Programs) error {
	last := clsact.LastPriority(filters)
	// Of one priority the latest is the first: no packet is cloned and not
	// taken, and none is chosen before there is somebody to do it.
	for _, f := range []clsact.Filter{
		{Name: takeSuffix, Priority: last, Program: p.Take},
		{Name: copySuffix, Priority: last, Program: p.Copy, CloneTo: d.Index},
		{Name: chooseSuffix, Priority: clsact.PriorityBefore(filters, last), Program: p.Choose},
	} {
		f.Index, f.Side, f.Name = index, clsact.Ingress, steering(d.Name)+f.Name
		if err := clsact.Add(d.ns, f); err != nil {
			return err
		}
		failpoint.Hit(failpoint.Steered)
	}
	return nil
}

// rechoose puts another program in the place of the one that chooses.
func (d *Device) rechoose(h *netlink.Handle, link netlink.Link, filters []netlink.Filter, choose *ebpf.Program) error {
	name := steering(d.Name) + chooseSuffix
	if found, err := clsact.Find(filters, name, choose); found && err == nil {
		return nil
	}
	if err := clsact.Remove(h, link, clsact.Ingress, name); err != nil {
		return err
	}
	return clsact.Add(d.ns, clsact.Filter{
		Index: link.Attrs().Index, Side: clsact.Ingress, Name: name, Program: choose,
		Priority: clsact.PriorityBefore(filters, clsact.LastPriority(filters)),
	})
}

// unsteer removes the filters of a device from an interface, those first that
// make the others act. A clsact of ours that nobody needs any more goes with them.
func unsteer(ns *netns.Namespace, h *netlink.Handle, link netlink.Link, device string) error {
	for _, side := range []clsact.Side{clsact.Ingress, clsact.Egress} {
		for _, suffix := range []string{chooseSuffix, copySuffix, takeSuffix} {
			if err := clsact.Remove(h, link, side, steering(device)+suffix); err != nil {
				return err
			}
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

// steering begins the names of the filters that belong to a device.
func steering(device string) string { return clsact.Prefix + device }

// deviceOf is the device that a filter with one of these names belongs to.
func deviceOf(filter string) (device string, ok bool) {
	device, found := strings.CutPrefix(filter, clsact.Prefix)
	for _, suffix := range []string{chooseSuffix, takeSuffix} {
		device = strings.TrimSuffix(device, suffix)
	}
	return device, found && isName(device)
}

package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// TCFilter undoes a cls_bpf filter at the egress of an interface, and the
// clsact qdisc under it when it carries our mark and nobody uses it any more.
// The kernel keeps both when the process that made them ends.
type TCFilter struct {
	// NetNS is the inode of the network namespace.
	NetNS     uint64 `json:"netns"`
	Interface string `json:"interface"`
	// Index finds the interface, also after it was renamed.
	Index int `json:"index"`
	// Name is the filter's own, and unique; "" is for a clsact alone.
	Name string `json:"name"`
}

// TCFilterKind is the name of TCFilter in the journal.
const TCFilterKind = "tc-filter"

// Kind implements fault.Undo.
func (TCFilter) Kind() string { return TCFilterKind }

// Describe implements fault.Undo.
func (f TCFilter) Describe() string {
	const idle = "clsact if it is faultline's and nobody uses it"
	at := fmt.Sprintf("interface %s (index %d) in netns %d", f.Interface, f.Index, f.NetNS)
	if f.Name == "" {
		return fmt.Sprintf("remove from %s %s", at, idle)
	}
	return fmt.Sprintf("remove cls_bpf filter %s from the egress of %s, and %s", f.Name, at, idle)
}

// Survives implements fault.Undo.
func (TCFilter) Survives() bool { return false }

// Undo implements fault.Undo. A namespace, interface, filter or qdisc that is
// gone has nothing to undo.
func (f TCFilter) Undo(context.Context) error {
	return f.at(func(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
		return ns.Exclusively(func() error { return f.remove(ns, h, link) })
	})
}

// at calls fn with the interface, where it still exists.
func (f TCFilter) at(fn func(*netns.Namespace, *netlink.Handle, netlink.Link) error) error {
	ns, err := netns.Find(f.NetNS)
	if err != nil || ns == nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByIndex(f.Index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for interface %d in %s: %w", f.Index, ns, err)
	}
	return fn(ns, h, link)
}

func (f TCFilter) remove(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
	if f.Name != "" {
		if err := clsact.Remove(h, link, clsact.Egress, f.Name); err != nil {
			return err
		}
	}
	return clsact.RemoveIdle(ns, h, link)
}

// addTries is how often a filter is added again whose clsact another process
// has just removed as idle.
const addTries = 10

// addTCFilter puts program on the egress of an interface, behind a journal
// record. On an error nothing is left.
func addTCFilter(ctx context.Context, i iface, program *ebpf.Program, rec fault.Recorder) (fault.Undone, error) {
	h, err := i.namespace.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByIndex(i.index)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", i, err)
	}
	filters, err := clsact.Filters(h, link, clsact.Egress)
	if err != nil {
		return nil, err
	}
	name := clsact.Prefix + randomHex()
	undone, err := rec.Record(TCFilter{NetNS: i.namespace.Inode, Interface: i.name, Index: i.index, Name: name})
	if err != nil {
		return nil, err
	}
	filter := clsact.Filter{
		Index: i.index, Side: clsact.Egress, Name: name, Priority: clsact.FirstPriority(filters), Program: program,
	}
	for try := 1; ; try++ {
		err = i.namespace.Exclusively(func() error {
			if err := clsact.Ensure(i.namespace, i.index); err != nil {
				return err
			}
			failpoint.Hit(failpoint.ClsactAdded)
			if err := clsact.Add(i.namespace, filter); err != nil {
				return err
			}
			failpoint.Hit(failpoint.FilterAdded)
			return nil
		})
		if err == nil {
			return undone, nil
		}
		if present, look := clsact.Present(h, link); present || look != nil || try == addTries {
			break
		}
	}
	return nil, errors.Join(err, undone.Undo(ctx))
}

func randomHex() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

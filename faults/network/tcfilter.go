package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// filterPrefix begins the name of every cls_bpf filter of ours.
const filterPrefix = "faultline-"

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
	const clsact = "clsact if it is faultline's and nobody uses it"
	at := fmt.Sprintf("interface %s (index %d) in netns %d", f.Interface, f.Index, f.NetNS)
	if f.Name == "" {
		return fmt.Sprintf("remove from %s %s", at, clsact)
	}
	return fmt.Sprintf("remove cls_bpf filter %s from the egress of %s, and %s", f.Name, at, clsact)
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
	filters, err := egressFilters(h, link)
	if err != nil {
		return err
	}
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok && f.Name != "" && filterName(bpf) == f.Name {
			if err := h.FilterDel(bpf); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing filter %s from %s: %w", f.Name, f.Interface, err)
			}
		}
	}
	return removeIdleClsact(ns, h, link)
}

// egressFilters lists the filters of clsact's egress; without clsact there are
// none.
func egressFilters(h *netlink.Handle, link netlink.Link) ([]netlink.Filter, error) {
	present, err := hasClsact(h, link)
	if err != nil || !present {
		return nil, err
	}
	filters, err := h.FilterList(link, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return nil, fmt.Errorf("listing the filters of %s: %w", link.Attrs().Name, err)
	}
	return filters, nil
}

// filterName is the name without the suffix that the kernel's dump or the
// library may put behind it.
func filterName(filter *netlink.BpfFilter) string {
	name, _, _ := strings.Cut(filter.Name, ":")
	return name
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
	filters, err := egressFilters(h, link)
	if err != nil {
		return nil, err
	}
	name := filterPrefix + randomHex()
	undone, err := rec.Record(TCFilter{NetNS: i.namespace.Inode, Interface: i.name, Index: i.index, Name: name})
	if err != nil {
		return nil, err
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: i.index,
			Parent:    netlink.HANDLE_MIN_EGRESS,
			Protocol:  unix.ETH_P_ALL,
			Priority:  firstPriority(filters),
		},
		Fd:           program.FD(),
		Name:         name,
		DirectAction: true,
	}
	for try := 1; ; try++ {
		err = i.namespace.Exclusively(func() error {
			if err := addClsact(i.namespace, i.index); err != nil {
				return fmt.Errorf("adding clsact to %s: %w", i, err)
			}
			failpoint.Hit(failpoint.ClsactAdded)
			if err := h.FilterAdd(filter); err != nil {
				return fmt.Errorf("adding a cls_bpf filter to %s: %w", i, err)
			}
			failpoint.Hit(failpoint.FilterAdded)
			return nil
		})
		if err == nil {
			return undone, nil
		}
		if present, look := hasClsact(h, link); present || look != nil || try == addTries {
			break
		}
	}
	return nil, errors.Join(err, undone.Undo(ctx))
}

// firstPriority is the lowest priority that a filter of ours can have: one
// that nobody has, or one that belongs to cls_bpf filters, where a new filter
// comes first (cls_bpf_change).
func firstPriority(filters []netlink.Filter) uint16 {
	for priority := uint16(1); ; priority++ {
		if !slices.ContainsFunc(filters, func(f netlink.Filter) bool {
			return f.Attrs().Priority == priority && (f.Type() != "bpf" || f.Attrs().Protocol != unix.ETH_P_ALL)
		}) {
			return priority
		}
	}
}

func randomHex() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

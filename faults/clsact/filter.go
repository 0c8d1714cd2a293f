package clsact

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/netns"
)

// Prefix begins the name of every cls_bpf filter of ours at an interface that
// is not ours.
const Prefix = "faultline-"

// Side is one of the two places for filters on a clsact.
type Side uint32

// The sides. Ingress is where packets come in.
const (
	Ingress Side = netlink.HANDLE_MIN_INGRESS
	Egress  Side = netlink.HANDLE_MIN_EGRESS
)

// Filter is a cls_bpf filter that is to be.
type Filter struct {
	Index    int
	Side     Side
	Name     string
	Priority uint16
	Program  *ebpf.Program
	// CloneTo is the interface out of which a clone is sent of each packet that
	// the program matches, by its answer -1; the packet goes on to the next
	// filter (mirred egress redirect, continue, tc-mirred(8)).
	CloneTo int
	// RedirectTo is the interface out of which the packet itself is sent
	// (mirred egress redirect, stolen). With neither the program's answer is
	// itself the action (direct-action, tc-bpf(8)).
	RedirectTo int
}

// Add puts a filter in place. The library knows no actions of BPF filters, so
// the request is made here (cls_bpf_change in net/sched/cls_bpf.c).
func Add(ns *netns.Namespace, f Filter) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{
		Family:  nl.FAMILY_ALL,
		Ifindex: int32(f.Index),
		Parent:  uint32(f.Side),
		Info:    netlink.MakeHandle(f.Priority, nl.Swap16(unix.ETH_P_ALL)),
	})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_BPF_FD, nl.Uint32Attr(uint32(f.Program.FD())))
	options.AddRtAttr(nl.TCA_BPF_NAME, nl.ZeroTerminated(f.Name))
	var flags uint32
	if redirect := f.redirect(); redirect == nil {
		flags = nl.TCA_BPF_FLAG_ACT_DIRECT
	} else {
		actions := options.AddRtAttr(nl.TCA_BPF_ACT, nil)
		if err := netlink.EncodeActions(actions, []netlink.Action{redirect}); err != nil {
			return err
		}
	}
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(flags))
	req.AddData(options)
	err := ns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("adding a cls_bpf filter to interface %d in %s: %w", f.Index, ns, err)
	}
	return nil
}

// redirect is nil for a program whose answer is the action. A redirection that
// ends with "stolen" takes the packet itself, any other a clone
// (tcf_mirred_can_reinsert); a mirror, which always takes a clone, does not mark
// it as ifb wants it.
func (f Filter) redirect() *netlink.MirredAction {
	switch {
	case f.CloneTo != 0:
		redirect := netlink.NewMirredAction(f.CloneTo)
		redirect.ActionAttrs.Action = netlink.TC_ACT_UNSPEC
		return redirect
	case f.RedirectTo != 0:
		return netlink.NewMirredAction(f.RedirectTo)
	default:
		return nil
	}
}

// Filters lists the filters of one side; without clsact there are none.
func Filters(h *netlink.Handle, link netlink.Link, side Side) ([]netlink.Filter, error) {
	kinds := []string{"clsact"}
	if side == Ingress {
		kinds = append(kinds, "ingress")
	}
	if present, err := has(h, link, kinds...); err != nil || !present {
		return nil, err
	}
	filters, err := h.FilterList(link, uint32(side))
	if err != nil {
		return nil, fmt.Errorf("listing the filters of %s: %w", link.Attrs().Name, err)
	}
	return filters, nil
}

// Present tells whether an interface has a clsact.
func Present(h *netlink.Handle, link netlink.Link) (bool, error) { return has(h, link, "clsact") }

func has(h *netlink.Handle, link netlink.Link, kinds ...string) (bool, error) {
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return false, fmt.Errorf("listing the qdiscs of %s: %w", link.Attrs().Name, err)
	}
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return slices.Contains(kinds, q.Type()) }), nil
}

// All lists the filters of both sides.
func All(h *netlink.Handle, link netlink.Link) (list []netlink.Filter, err error) {
	for _, side := range []Side{Ingress, Egress} {
		filters, err := Filters(h, link, side)
		if err != nil {
			return nil, err
		}
		list = append(list, filters...)
	}
	return list, nil
}

// Name is a filter's name without the suffix that the kernel's dump or the
// library may put behind it; "" for one that is not cls_bpf.
func Name(filter netlink.Filter) string {
	bpf, ok := filter.(*netlink.BpfFilter)
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(bpf.Name, ":")
	return name
}

// Find tells whether a filter of that name is among those listed. One that has
// another program is an error.
func Find(filters []netlink.Filter, name string, program *ebpf.Program) (bool, error) {
	for _, filter := range filters {
		if Name(filter) != name {
			continue
		}
		info, err := program.Info()
		if err != nil {
			return false, fmt.Errorf("asking for a program: %w", err)
		}
		wanted, _ := info.ID()
		if id := ebpf.ProgramID(filter.(*netlink.BpfFilter).Id); id != wanted {
			return false, fmt.Errorf("filter %s has program %d, and not %d", name, id, wanted)
		}
		return true, nil
	}
	return false, nil
}

// Remove removes the filters of that name from one side. None is no error.
func Remove(h *netlink.Handle, link netlink.Link, side Side, name string) error {
	filters, err := Filters(h, link, side)
	if err != nil {
		return err
	}
	for _, filter := range filters {
		if Name(filter) != name {
			continue
		}
		if err := h.FilterDel(filter); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing filter %s from %s: %w", name, link.Attrs().Name, err)
		}
	}
	return nil
}

// FirstPriority is the lowest priority that a filter of ours can have among
// those that are there, so that it sees packets first: one that nobody has, or
// one that belongs to cls_bpf filters, where a new filter comes first
// (cls_bpf_change).
func FirstPriority(filters []netlink.Filter) uint16 {
	for priority := uint16(1); ; priority++ {
		if free(filters, priority) {
			return priority
		}
	}
}

// LastPriority is the highest one, behind all others.
func LastPriority(filters []netlink.Filter) uint16 {
	if last := ^uint16(0); free(filters, last) {
		return last
	}
	return PriorityBefore(filters, ^uint16(0))
}

// PriorityBefore is the highest one below another.
func PriorityBefore(filters []netlink.Filter, priority uint16) uint16 {
	for priority--; !free(filters, priority); {
		priority--
	}
	return priority
}

func free(filters []netlink.Filter, priority uint16) bool {
	return !slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		return f.Attrs().Priority == priority && (f.Type() != "bpf" || f.Attrs().Protocol != unix.ETH_P_ALL)
	})
}

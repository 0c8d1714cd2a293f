// Package clsact makes and removes the qdisc under the filters of an interface,
// and the BPF filters on it. It records nothing: who uses it does.
package clsact

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/netns"
)

// sizeTable is struct tc_sizespec of linux/pkt_sched.h.
//
// A qdisc can have a table of packet sizes (tc-stab(8)), and the kernel keeps
// one for clsact too, which has no queue and never asks it. So it serves as the
// mark of a clsact that is ours: it is there in the very request that makes the
// qdisc, is seen in every dump, and is gone when somebody else makes the qdisc
// his own (tc qdisc replace, as Cilium does), which is no longer ours to remove.
type sizeTable struct {
	CellLog, SizeLog uint8
	CellAlign        int16
	Overhead         int32
	LinkLayer        uint32
	MPU              uint32
	MTU              uint32
	Size             uint32
}

// Attributes within TCA_STAB.
const tcaStabBase = 1

// mark is the table of every clsact that this program makes: "FLT!", twice.
var mark = sizeTable{Overhead: 0x464c5421, MPU: 0x464c5421}

func (s sizeTable) encode() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, s) // never fails: bytes.Buffer
	return b.Bytes()
}

// Ensure makes a clsact with our mark. Where there is one already it is left
// as it is, and so is its mark.
func Ensure(ns *netns.Namespace, index int) error { return ensure(ns, index, true) }

// EnsureUnmarked makes a clsact that nobody looks for: one on an interface of
// ours, with which it goes.
func EnsureUnmarked(ns *netns.Namespace, index int) error { return ensure(ns, index, false) }

func ensure(ns *netns.Namespace, index int, marked bool) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{
		Family:  nl.FAMILY_ALL,
		Ifindex: int32(index),
		Handle:  netlink.MakeHandle(0xffff, 0),
		Parent:  netlink.HANDLE_CLSACT,
	})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("clsact")))
	if marked {
		stab := nl.NewRtAttr(nl.TCA_STAB, nil)
		stab.AddRtAttr(tcaStabBase, mark.encode())
		req.AddData(stab)
	}
	err := ns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("adding clsact to interface %d in %s: %w", index, ns, err)
	}
	return nil
}

// List returns the interfaces of a namespace that have a clsact, by index, and
// whether it has our mark. A qdisc ingress counts as one of somebody else.
func List(ns *netns.Namespace) (ours map[int]bool, err error) {
	var messages [][]byte
	err = ns.Do(func() (err error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
		req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL})
		messages, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the qdiscs of %s: %w", ns, err)
	}
	text := mark.encode()
	ours = map[int]bool{}
	for _, message := range messages {
		attributes, err := nl.ParseRouteAttr(message[nl.SizeofTcMsg:])
		if err != nil {
			return nil, fmt.Errorf("reading the qdiscs of %s: %w", ns, err)
		}
		var kind string
		var marked bool
		for _, attribute := range attributes {
			switch attribute.Attr.Type {
			case nl.TCA_KIND:
				kind = nl.BytesToString(attribute.Value)
			case nl.TCA_STAB, nl.TCA_STAB | unix.NLA_F_NESTED:
				marked = bytes.Contains(attribute.Value, text)
			}
		}
		// It is a clsact without an egress (net/sched/sch_ingress.c).
		if kind == "clsact" || kind == "ingress" {
			ours[int(nl.DeserializeTcMsg(message).Ifindex)] = marked && kind == "clsact"
		}
	}
	return ours, nil
}

// RemoveIdle removes the clsact of an interface if it has our mark and there is
// no filter on it. Call it under netns.Namespace.Exclusively.
func RemoveIdle(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
	ours, err := List(ns)
	if err != nil || !ours[link.Attrs().Index] {
		return err
	}
	filters, err := All(h, link)
	if err != nil || len(filters) > 0 {
		return err
	}
	err = h.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("removing clsact from %s: %w", link.Attrs().Name, err)
	}
	return nil
}

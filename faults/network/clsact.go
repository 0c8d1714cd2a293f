package network

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

// clsactMark is the table of every clsact that this program makes: "FLT!", twice.
var clsactMark = sizeTable{Overhead: 0x464c5421, MPU: 0x464c5421}

func (s sizeTable) encode() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, s) // never fails: bytes.Buffer
	return b.Bytes()
}

// addClsact makes a marked clsact. Where there is one already it is left as it
// is, and so is its mark.
func addClsact(ns *netns.Namespace, index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{
		Family:  nl.FAMILY_ALL,
		Ifindex: int32(index),
		Handle:  netlink.MakeHandle(0xffff, 0),
		Parent:  netlink.HANDLE_CLSACT,
	})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("clsact")))
	stab := nl.NewRtAttr(nl.TCA_STAB, nil)
	stab.AddRtAttr(tcaStabBase, clsactMark.encode())
	req.AddData(stab)
	err := ns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// clsacts lists the interfaces that have a clsact, and whether it is ours.
func clsacts(ns *netns.Namespace) (ours map[int]bool, err error) {
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
	mark := clsactMark.encode()
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
				marked = bytes.Contains(attribute.Value, mark)
			}
		}
		if kind == "clsact" {
			ours[int(nl.DeserializeTcMsg(message).Ifindex)] = marked
		}
	}
	return ours, nil
}

// removeIdleClsact removes a clsact of ours unless somebody has a filter on it.
func removeIdleClsact(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
	ours, err := clsacts(ns)
	if err != nil || !ours[link.Attrs().Index] {
		return err
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := h.FilterList(link, parent)
		if err != nil {
			return fmt.Errorf("listing the filters of %s: %w", link.Attrs().Name, err)
		}
		if len(filters) > 0 {
			return nil
		}
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

func hasClsact(h *netlink.Handle, link netlink.Link) (bool, error) {
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return false, fmt.Errorf("listing the qdiscs of %s: %w", link.Attrs().Name, err)
	}
	for _, qdisc := range qdiscs {
		if qdisc.Type() == "clsact" {
			return true, nil
		}
	}
	return false, nil
}

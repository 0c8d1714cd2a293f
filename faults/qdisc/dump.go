package qdisc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/netns"
)

// Qdisc is a queueing discipline as the kernel dumps it (tc_fill_qdisc of
// net/sched/sch_api.c), without its statistics.
type Qdisc struct {
	Kind   string `json:"kind"`
	Handle uint32 `json:"handle"`
	Parent uint32 `json:"parent"`
	// Options is TCA_OPTIONS; nil where the kind has none.
	Options []byte `json:"options,omitempty"`
	// SizeTable is TCA_STAB (tc-stab(8)).
	SizeTable []byte `json:"stab,omitempty"`
	// Offloaded is TCA_HW_OFFLOAD.
	Offloaded bool `json:"offloaded,omitempty"`

	// estimated tells that a rate estimator is attached, which no dump
	// describes.
	estimated bool
	// statistics are those of struct gnet_stats_queue.
	statistics queueStatistics
}

// queueStatistics is struct gnet_stats_queue of linux/gen_stats.h.
type queueStatistics struct {
	Length, Backlog, Drops, Requeues, Overlimits uint32
}

// same leaves out what is not configured but counted.
func (q Qdisc) same(o Qdisc) bool {
	return q.Kind == o.Kind && q.Handle == o.Handle && q.Parent == o.Parent &&
		bytes.Equal(q.Options, o.Options) && bytes.Equal(q.SizeTable, o.SizeTable)
}

// byDefault tells that the kernel has made it by itself.
func (q Qdisc) byDefault() bool { return q.Handle == 0 }

// String is a line for a fault.Watch, with the options in hexadecimal where the
// kind is one that may be replaced; those of others may have counters in them
// (direct packets of htb). Of what the kernel makes by default those options are
// left out that it takes from the device's MTU at that moment: they are
// different after the MTU was changed, and are right for it then.
func (q Qdisc) String() string {
	options := q.Options
	switch {
	case !slices.Contains(restorable, q.Kind):
		options = nil
	case q.byDefault():
		options = withoutMTU(q.Kind, options)
	}
	text := fmt.Sprintf("qdisc %s %s parent %s", q.Kind, name(q.Handle), name(q.Parent))
	if len(options) > 0 {
		text += " options " + hex.EncodeToString(options)
	}
	if len(q.SizeTable) > 0 {
		text += " stab " + hex.EncodeToString(q.SizeTable)
	}
	if q.Offloaded {
		text += " offloaded"
	}
	return text
}

// name is a handle or a parent as tc(8) writes it.
func name(handle uint32) string {
	if handle == netlink.HANDLE_ROOT {
		return "root"
	}
	text := fmt.Sprintf("%x:", handle>>16)
	if minor := handle & 0xffff; minor != 0 {
		text += fmt.Sprintf("%x", minor)
	}
	return text
}

// withoutMTU removes what fq_codel_init and fq_init take from psched_mtu.
func withoutMTU(kind string, options []byte) []byte {
	var drop []uint16
	switch kind {
	case kindFQCodel:
		drop = []uint16{codelQuantum}
	case kindFQ:
		drop = []uint16{fqQuantum, fqInitialQuantum}
	default:
		return options
	}
	var out []byte
	for _, a := range parse(options) {
		if !slices.Contains(drop, a.kind) {
			out = append(out, attribute(a.kind, a.value)...)
		}
	}
	return out
}

// dumpTries is how often a dump is begun again that a change has interrupted.
const dumpTries = 20

// dump lists the qdiscs of one interface, or of all when index is 0, clsact
// and ingress too, the root first and then by parent and handle.
func dump(ns *netns.Namespace, index int) (map[int][]Qdisc, error) {
	messages, err := ask(ns, unix.RTM_GETQDISC, unix.RTM_NEWQDISC, &nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index)})
	if err != nil {
		return nil, fmt.Errorf("listing the qdiscs of %s: %w", ns, err)
	}
	found := map[int][]Qdisc{}
	for _, message := range messages {
		msg := nl.DeserializeTcMsg(message)
		// tc_dump_qdisc lists all interfaces, whatever it is asked for.
		if at := int(msg.Ifindex); index == 0 || at == index {
			found[at] = append(found[at], decode(msg, message[nl.SizeofTcMsg:]))
		}
	}
	for _, list := range found {
		slices.SortStableFunc(list, compare)
	}
	return found, nil
}

// ask is a dump request of rtnetlink(7) inside the namespace.
func ask(ns *netns.Namespace, request int, answer uint16, msg *nl.TcMsg) (messages [][]byte, err error) {
	err = ns.Do(func() (err error) {
		for range dumpTries {
			req := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
			req.AddData(msg)
			messages, err = req.Execute(unix.NETLINK_ROUTE, answer)
			if !errors.Is(err, nl.ErrDumpInterrupted) {
				break
			}
		}
		return err
	})
	return messages, err
}

func decode(msg *nl.TcMsg, attributes []byte) Qdisc {
	q := Qdisc{Handle: msg.Handle, Parent: msg.Parent}
	for _, a := range parse(attributes) {
		switch a.kind {
		case nl.TCA_KIND:
			q.Kind = nl.BytesToString(a.value)
		case nl.TCA_OPTIONS:
			q.Options = slices.Clone(a.value)
		case nl.TCA_STAB:
			q.SizeTable = slices.Clone(a.value)
		case nl.TCA_HW_OFFLOAD:
			q.Offloaded = len(a.value) > 0 && a.value[0] != 0
		case nl.TCA_STATS2:
			q.decodeStatistics(a.value)
		}
	}
	return q
}

func (q *Qdisc) decodeStatistics(nested []byte) {
	for _, a := range parse(nested) {
		switch a.kind {
		case nl.TCA_STATS_RATE_EST, nl.TCA_STATS_RATE_EST64:
			q.estimated = true
		case nl.TCA_STATS_QUEUE:
			_ = binary.Read(bytes.NewReader(a.value), binary.NativeEndian, &q.statistics)
		}
	}
}

// compare puts the root first: all bits of its parent are set.
func compare(a, b Qdisc) int {
	rank := func(q Qdisc) uint64 { return uint64(q.Parent+1)<<32 | uint64(q.Handle) }
	switch x, y := rank(a), rank(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// The flags of RTM_NEWQDISC that tc_modify_qdisc tells apart. An existing qdisc
// that the kernel has made by default counts as none.
const (
	// onlyDefault makes a qdisc, unless there is one that somebody has made.
	onlyDefault = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	// instead makes a qdisc in the place of any other.
	instead = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	// change sets the options of the one with the same handle and kind.
	change = 0
)

// put sends RTM_NEWQDISC.
func put(ns *netns.Namespace, index int, q Qdisc, flags int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_ACK|flags)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Handle: q.Handle, Parent: q.Parent})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(q.Kind)))
	if len(q.Options) > 0 {
		req.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, q.Options))
	}
	if len(q.SizeTable) > 0 {
		req.AddData(nl.NewRtAttr(nl.TCA_STAB|unix.NLA_F_NESTED, q.SizeTable))
	}
	return send(ns, req)
}

// remove sends RTM_DELQDISC. The kernel refuses when the root has another
// handle by now.
func remove(ns *netns.Namespace, index int, handle uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELQDISC, unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Handle: handle, Parent: netlink.HANDLE_ROOT})
	return send(ns, req)
}

func send(ns *netns.Namespace, req *nl.NetlinkRequest) error {
	return ns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// attr is an attribute of netlink(7) without its flags.
type attr struct {
	kind  uint16
	value []byte
}

// parse stops where the attributes make no sense any more.
func parse(b []byte) (list []attr) {
	const header = unix.SizeofNlAttr
	for len(b) >= header {
		length := int(binary.NativeEndian.Uint16(b))
		if length < header || length > len(b) {
			break
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		list = append(list, attr{kind, b[header:length]})
		b = b[min(aligned(length), len(b)):]
	}
	return list
}

func aligned(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// attribute encodes one.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, aligned(len(b))-len(b))...)
}

// number is the value of a u32 attribute.
func number(value []byte) (uint32, bool) {
	if len(value) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(value), true
}

package qdisc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
)

// Class is the class with the Emulation, in which a packet ends whose
// skb->priority it is; all others go by.
const Class = MarkEmulated | emulatedBand

// ProgramSteer is how the name of a program begins that leads packets there.
const ProgramSteer = "fl_steer"

const (
	passingBand  = 1
	emulatedBand = 2
	// passingPackets can wait for the device, as many as by fq's own default.
	passingPackets = 10_000
)

// LookToEmulate reads what is at the egress of an interface, and changes
// nothing. The errors are those of Look; an fq, which holds packets by itself, is
// refused too.
func LookToEmulate(ns *netns.Namespace, index int, e Emulation) (view *View, err error) {
	at, err := linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	if _, err := e.options(longestPacket(at)); err != nil {
		return nil, err
	}
	err = ns.Exclusively(func() error {
		view, err = look(ns, index)
		return err
	})
	if err != nil {
		return nil, err
	}
	if view.State == Foreign || view.State == Shared {
		return nil, fmt.Errorf("interface %s in %s has an fq, which holds packets by itself: a qdisc in its place is %w", view.name, ns, fault.ErrUnavailable)
	}
	if warning := e.warning(longestPacket(at)); warning != "" {
		view.Warnings = append(view.Warnings, fmt.Sprintf("interface %s: %s", view.name, warning))
	}
	return view, nil
}

// longestPacket is in bytes, with an Ethernet header and a VLAN's tag.
func longestPacket(at netlink.Link) uint32 {
	const header = 18
	return uint32(at.Attrs().MTU + header)
}

// Emulating is Action for an Emulation.
func (v *View) Emulating(e Emulation) string {
	return fmt.Sprintf("replace the qdisc at the root (%s) with prio, and put %s into one of its classes", v.Tree.kind(), e.kind())
}

// ReserveEmulation is Reserve for an Emulation: the root becomes a prio of two
// classes. Program is the one that leads packets into Class, and whose name
// begins with ProgramSteer; it steers nothing until Make has returned. The root
// is this fault's alone.
func ReserveEmulation(ns *netns.Namespace, index int, program *ebpf.Program, e Emulation, rec fault.Recorder) (*Hold, error) {
	at, err := linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	view, err := LookToEmulate(ns, index, e)
	if err != nil {
		return nil, err
	}
	h := &Hold{ns: ns, emulation: e, root: Root{
		NetNS: ns.Inode, Interface: at.Attrs().Name, Index: index, Mark: MarkEmulated,
	}}
	if view.State == Explicit {
		h.root.Before = view.Tree
	}
	if err := tell(program, before{ns.Inode, index, h.root.Before}); err != nil {
		return nil, err
	}
	if h.undone, err = rec.Record(h.root); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.QdiscRecorded)
	return h, nil
}

// emulate sees to it that the root is our prio, and complete. It is called
// exclusively.
func (h *Hold) emulate() error {
	at, err := linkAt(h.ns, h.root.Index)
	if err != nil {
		return err
	}
	options, err := h.emulation.options(longestPacket(at))
	if err != nil {
		return err
	}
	tree, err := treeOf(h.ns, h.root.Index)
	if err != nil {
		return err
	}
	if len(tree) == 0 || !emulated(tree[0]) {
		if err := h.replaceByPrio(); err != nil {
			return err
		}
	}
	for _, leaf := range []Qdisc{
		{Kind: "pfifo", Parent: MarkEmulated | passingBand, Options: words(passingPackets)},
		{Kind: h.emulation.kind(), Parent: Class, Options: options},
	} {
		if there := tree.below(leaf.Parent); there != nil && there.Kind == leaf.Kind && !there.byDefault() {
			continue
		}
		if err := put(h.ns, h.root.Index, leaf, instead); err != nil {
			return fmt.Errorf("adding %s at %s: %w", leaf.Kind, name(leaf.Parent), missing(leaf.Kind, err))
		}
		failpoint.Hit(failpoint.QdiscReplaced)
	}
	return nil
}

func (h *Hold) replaceByPrio() error {
	view, err := look(h.ns, h.root.Index)
	if err != nil {
		return err
	}
	flags := onlyDefault
	if view.State == Explicit {
		flags = instead
	}
	if view.State != Default && view.State != Explicit || view.State == Explicit && !view.Tree.same(h.root.Before) {
		return refused("its qdisc was replaced meanwhile (there is %s)", view.current.kind())
	}
	// struct tc_prio_qopt: the number of bands, and the band, from 0, of each of
	// the 16 priorities that name no class.
	options := append(words(emulatedBand), make([]byte, 16)...)
	root := Qdisc{Kind: kindPrio, Handle: MarkEmulated, Parent: netlink.HANDLE_ROOT, Options: options}
	if err := put(h.ns, h.root.Index, root, flags); err != nil {
		return fmt.Errorf("replacing %s with prio: %w", view.Tree.kind(), missing(kindPrio, err))
	}
	failpoint.Hit(failpoint.QdiscReplaced)
	return nil
}

// below is the qdisc in a class.
func (t Tree) below(class uint32) *Qdisc {
	for i := range t {
		if t[i].Parent == class {
			return &t[i]
		}
	}
	return nil
}

// steered tells whether a process has a program open that leads packets into
// our prio at an interface.
func steered(ns *netns.Namespace, index int) (bool, error) {
	held, err := pin.HeldPrograms()
	if err != nil {
		return false, err
	}
	for id := range held {
		steers, err := steersTo(id, ns, index)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("reading program %d: %w", id, err)
		}
		if steers {
			return true, nil
		}
	}
	return false, nil
}

func steersTo(id ebpf.ProgramID, ns *netns.Namespace, index int) (bool, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false, err
	}
	defer func() { _ = program.Close() }()
	info, err := program.Info()
	if err != nil || !strings.HasPrefix(info.Name, ProgramSteer) {
		return false, err
	}
	u := user{program: id}
	if err := u.readMaps(info); err != nil {
		return false, err
	}
	for _, b := range u.before {
		if b.NetNS == ns.Inode && b.Index == index {
			return true, nil
		}
	}
	return false, nil
}

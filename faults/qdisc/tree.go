package qdisc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// The handles of a root of ours.
const (
	// MarkDefault: it has replaced what the kernel had made by default.
	MarkDefault uint32 = 0xfa17 << 16
	// MarkExplicit: it has replaced what somebody had made.
	MarkExplicit uint32 = 0xfa18 << 16
	// MarkEmulated: it is a prio, and one of its classes has what a fault wants.
	MarkEmulated uint32 = 0xfa19 << 16
)

// The kinds that can be put back.
const (
	kindNoqueue   = "noqueue"
	kindPfifoFast = "pfifo_fast"
	kindFQCodel   = "fq_codel"
	kindFQ        = "fq"
	kindMQ        = "mq"
	kindPrio      = "prio"
)

var restorable = []string{kindNoqueue, kindPfifoFast, kindFQCodel, kindFQ, kindMQ}

// Tree is the queueing at the egress of an interface: the root, and where that is
// an mq its leaves. It is empty for an interface that was never up.
type Tree []Qdisc

// root is nil for an empty tree.
func (t Tree) root() *Qdisc {
	if len(t) == 0 {
		return nil
	}
	return &t[0]
}

func (t Tree) same(o Tree) bool { return slices.EqualFunc(t, o, Qdisc.same) }

// kind is the root's, for people.
func (t Tree) kind() string {
	if len(t) == 0 {
		return "nothing (the interface was never up)"
	}
	if leaves := t[1:]; len(leaves) > 0 {
		return fmt.Sprintf("%s with %d %s", t[0].Kind, len(leaves), strings.Join(kinds(leaves), ", "))
	}
	return t[0].Kind
}

// kinds are the different ones among the qdiscs.
func kinds(list []Qdisc) (out []string) {
	for _, q := range list {
		if !slices.Contains(out, q.Kind) {
			out = append(out, q.Kind)
		}
	}
	return out
}

// egressTree leaves clsact and ingress out, which stand beside it.
func egressTree(list []Qdisc) Tree {
	return slices.DeleteFunc(slices.Clone(list), func(q Qdisc) bool { return q.Parent == netlink.HANDLE_CLSACT })
}

// State is how an interface stands to fq.
type State int

// The states.
const (
	// Foreign: somebody else's fq is there, and used as it is.
	Foreign State = iota
	// Default: what the kernel has made is to be replaced.
	Default
	// Explicit: what somebody has made is to be replaced.
	Explicit
	// Shared: an fq of ours is there.
	Shared
)

// View is what an interface has, and what would be done.
type View struct {
	State State
	// Tree is what is there; where the state is Shared, what was there before,
	// when that is known.
	Tree Tree
	// Limits of the fq that is there.
	Limits Limits
	// Warnings are what can't be as it was.
	Warnings []string

	name string
	// mark is the handle that a root of ours has, or would have.
	mark uint32
	// current is what is there now.
	current Tree
}

// Action is what would be done, for the changes of a plan; "" where fq is used
// as it is.
func (v *View) Action() string {
	switch v.State {
	case Default:
		return fmt.Sprintf("replace the qdisc at the root, which is the kernel's default (%s), with %s", v.Tree.kind(), v.ours())
	case Explicit:
		return fmt.Sprintf("replace the qdisc at the root (%s) with %s", v.Tree.kind(), v.ours())
	case Shared:
		return "share the qdisc fq that another fault has put at the root"
	default:
		return ""
	}
}

// Undo is who puts back what was there, and how, for the changes of a plan.
func (v *View) Undo() string {
	switch {
	case v.State == Foreign:
		return ""
	case v.mark == MarkExplicit:
		return "journal (made again as it was, with the last fault that uses fq)"
	default:
		return "journal (the kernel makes its default again, with the last fault that uses fq)"
	}
}

// ours says what is made in the place of the tree.
func (v *View) ours() string {
	if root := v.Tree.root(); root != nil && root.Kind == kindMQ {
		return "mq and an fq for each queue"
	}
	return kindFQ
}

// Look reads what is at the egress of an interface, and changes nothing. An
// error says why a fault can't have fq there: it matches fault.ErrUnavailable
// when what is there could not be put back, or allows no such delay, and
// fault.ErrGone when there is no such interface.
func Look(ns *netns.Namespace, index int, params Params) (view *View, err error) {
	wanted, err := params.limits()
	if err != nil {
		return nil, err
	}
	// What another process is just putting back is not complete.
	err = ns.Exclusively(func() error {
		view, err = look(ns, index)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := view.allows(params); err != nil {
		return nil, err
	}
	if l := view.Limits; view.State == Foreign && (l.FlowPackets < wanted.FlowPackets || l.Packets < wanted.Packets) {
		view.Warnings = append(view.Warnings, fmt.Sprintf("interface %s has an fq of its own, which keeps %d packets of one flow and %d in all (tc-fq(8): flow_limit, limit): more that wait at a time are lost", view.name, l.FlowPackets, l.Packets))
	}
	return view, nil
}

// allows refuses a delay beyond the horizon of somebody else's fq. Ours is made
// to fit.
func (v *View) allows(params Params) error {
	if v.State != Foreign || v.Limits.Allows(params.Delay) {
		return nil
	}
	return fmt.Errorf("a delay of %s at interface %s, whose own fq holds no packet longer than %s, is %w", params.Delay, v.name, v.Limits.Horizon, fault.ErrUnavailable)
}

// look has to be called exclusively.
func look(ns *netns.Namespace, index int) (*View, error) {
	link, err := linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	found, err := dump(ns, index)
	if err != nil {
		return nil, err
	}
	l := looker{ns: ns, link: link}
	view, err := l.view(egressTree(found[index]))
	if err != nil {
		return nil, fmt.Errorf("interface %s in %s: %w", link.Attrs().Name, ns, err)
	}
	return view, nil
}

// linkAt returns fault.ErrGone where there is none.
func linkAt(ns *netns.Namespace, index int) (netlink.Link, error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("interface %d in %s is %w", index, ns, fault.ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for interface %d in %s: %w", index, ns, err)
	}
	return link, nil
}

// looker judges one interface.
type looker struct {
	ns   *netns.Namespace
	link netlink.Link
}

// refused is an error that is fault.ErrUnavailable.
func refused(format string, args ...any) error {
	return fmt.Errorf(format+", so that fq, which a delay needs there, is %w", append(args, fault.ErrUnavailable)...)
}

func (l looker) view(tree Tree) (*View, error) {
	v := &View{Tree: tree, current: tree, name: l.link.Attrs().Name, mark: MarkDefault}
	root := tree.root()
	switch {
	case root == nil:
		v.State = Default
		return v, nil
	case ours(*root):
		return l.shared(v)
	case allFQ(tree):
		v.State, v.Limits = Foreign, limitsOfTree(tree)
		return v, nil
	}
	if err := l.supported(tree); err != nil {
		return nil, err
	}
	v.State = Default
	if !root.byDefault() {
		v.State, v.mark = Explicit, MarkExplicit
	}
	if err := l.defaults(tree); err != nil {
		return nil, err
	}
	for _, q := range tree {
		if err := l.complete(q); err != nil {
			return nil, err
		}
		if warning := l.mtu(q); warning != "" && !slices.Contains(v.Warnings, warning) {
			v.Warnings = append(v.Warnings, warning)
		}
	}
	return v, nil
}

// ours tells whether a root carries our mark. A root of another kind with such
// a handle is somebody else's.
func ours(root Qdisc) bool {
	fq := (root.Handle == MarkDefault || root.Handle == MarkExplicit) && (root.Kind == kindFQ || root.Kind == kindMQ)
	return (fq || emulated(root)) && root.Parent == netlink.HANDLE_ROOT
}

// emulated tells whether a root is one that Emulate has made.
func emulated(root Qdisc) bool { return root.Handle == MarkEmulated && root.Kind == kindPrio }

// allFQ tells whether every queue has an fq.
func allFQ(tree Tree) bool {
	queues := tree
	if tree[0].Kind == kindMQ {
		queues = tree[1:]
	}
	return len(queues) > 0 && !slices.ContainsFunc(queues, func(q Qdisc) bool { return q.Kind != kindFQ })
}

// limitsOfTree are what each of its fqs allows.
func limitsOfTree(tree Tree) (l Limits) {
	first := true
	for _, q := range tree {
		if q.Kind != kindFQ {
			continue
		}
		of := limitsOf(q.Options)
		if !first {
			of = of.smaller(l)
		}
		l, first = of, false
	}
	return l
}

// shared completes the view of an interface that has a root of ours.
func (l looker) shared(v *View) (*View, error) {
	if emulated(v.current[0]) {
		return nil, refused("a fault has a qdisc of its own there (%s), which can't be shared", v.current[1:].kind())
	}
	v.State, v.mark, v.Tree = Shared, v.current[0].Handle, nil
	v.Limits = limitsOfTree(v.current)
	if v.mark == MarkDefault {
		return v, nil
	}
	users, err := usersOf(l.ns, l.link)
	if err != nil {
		return nil, err
	}
	if v.Tree = known(users, l.ns, l.link.Attrs().Index); v.Tree == nil {
		return nil, refused("another fault has replaced a qdisc that somebody had made, and only its undo knows which (wait for its end, or revert it when it is dead)")
	}
	return v, nil
}

// supported refuses kinds that can't be put back, with their name.
func (l looker) supported(tree Tree) error {
	root := tree[0]
	switch root.Kind {
	case kindMQ, kindNoqueue, kindPfifoFast, kindFQCodel:
	default:
		return refused("it has the qdisc %s (%s), which can't be replaced and put back", root.Kind, name(root.Handle))
	}
	for _, q := range tree[1:] {
		leaf := root.Kind == kindMQ && q.Parent>>16 == root.Handle>>16
		if leaf && slices.Contains([]string{kindPfifoFast, kindFQCodel, kindFQ}, q.Kind) {
			continue
		}
		return refused("it has the qdisc %s (%s) below %s (%s), which can't be replaced and put back",
			q.Kind, name(q.Handle), root.Kind, name(root.Handle))
	}
	return nil
}

// complete refuses what has more to it than a dump tells.
func (l looker) complete(q Qdisc) error {
	what := fmt.Sprintf("its qdisc %s (%s)", q.Kind, name(q.Handle))
	if q.estimated {
		return refused("%s has a rate estimator, which can't be put back", what)
	}
	if tabled(q.SizeTable) {
		return refused("%s has a size table, which can't be put back", what)
	}
	// Only fq_codel takes filters. A child by default can't be named.
	if q.Kind != kindFQCodel || q.byDefault() && q.Parent != netlink.HANDLE_ROOT {
		return nil
	}
	// A parent of 0 is the root (tc_dump_tfilter).
	messages, err := ask(l.ns, unix.RTM_GETTFILTER, unix.RTM_NEWTFILTER,
		&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(l.link.Attrs().Index), Parent: q.Handle})
	if err != nil {
		return fmt.Errorf("listing the filters of %s: %w", what, err)
	}
	if len(messages) > 0 {
		return refused("%s has filters, which can't be put back", what)
	}
	return nil
}

// tabled tells whether a size table has entries; the kernel dumps its head only
// (qdisc_dump_stab).
func tabled(stab []byte) bool {
	const base, entries = 1, 20 // TCA_STAB_BASE; tsize of struct tc_sizespec
	for _, a := range parse(stab) {
		if a.kind == base && len(a.value) >= entries+4 {
			n, _ := number(a.value[entries:])
			return n > 0
		}
	}
	return len(stab) > 0
}

// defaultQdisc is the sysctl of the kind that the kernel makes by default. It
// is the same for all network namespaces, and only seen in the first.
const defaultQdisc = "/proc/sys/net/core/default_qdisc"

// defaults refuses what the kernel would not make again by default.
func (l looker) defaults(tree Tree) error {
	// A CAN interface has its own default (attach_one_default_qdisc).
	if l.link.Attrs().EncapType == "can" {
		return nil
	}
	text, err := os.ReadFile(defaultQdisc)
	if err != nil {
		return nil
	}
	kind := strings.TrimSpace(string(text))
	for _, q := range tree {
		if q.byDefault() && q.Kind != kind && q.Kind != kindMQ && q.Kind != kindNoqueue {
			return refused("it has the qdisc %s by default, and now the default is %s (net.core.default_qdisc): what is there could not be put back (tc qdisc replace makes it explicit)", q.Kind, kind)
		}
	}
	return nil
}

// mtu warns of what comes back for another MTU than that which it was made
// for. How long the header is that fq_codel adds no dump says: on Ethernet it is
// 14 bytes.
func (l looker) mtu(q Qdisc) string {
	const header = 14
	attrs := l.link.Attrs()
	if !q.byDefault() || q.Kind != kindFQCodel || attrs.EncapType != "ether" {
		return ""
	}
	for _, a := range parse(q.Options) {
		if n, ok := number(a.value); ok && a.kind == codelQuantum && int(n) != attrs.MTU+header {
			return fmt.Sprintf("the kernel made fq_codel at %s for an MTU of %d and will make it again for %d: its quantum changes with it", attrs.Name, int(n)-header, attrs.MTU)
		}
	}
	return ""
}

// missing explains why a kind can't be made: the kernel has asked for its
// module in vain.
func missing(kind string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the kernel has no qdisc %s and loaded no module sch_%s, so that it is %w", kind, kind, fault.ErrUnavailable)
	}
	return err
}

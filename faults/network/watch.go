package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
)

// programPrefix begins the name of every program of ours.
const programPrefix = "fl_"

// own tells what of an object's state belongs to one fault: several of them,
// and of several runs, may be at one interface or cgroup at a time.
type own struct {
	// mark is the fault's own.
	mark     uint32
	programs []ebpf.ProgramID
}

func (o *own) add(program *ebpf.Program) error {
	info, err := program.Info()
	if err != nil {
		return fmt.Errorf("asking for a program: %w", err)
	}
	id, _ := info.ID()
	o.programs = append(o.programs, id)
	return nil
}

// programText ends the line of a program or of a filter with one.
func programText(id ebpf.ProgramID) string {
	return fmt.Sprintf("program %d %s", id, programName(id))
}

// differences leaves other faults out, which come and go at their own time. A
// clsact of ours is left behind when it has no filter, a root qdisc of ours when
// no fault uses it.
func (o *own) differences(before, after []string) []string {
	before = slices.DeleteFunc(qdisc.Lasting(before, after), func(line string) bool {
		_, name, found := cutProgram(line)
		return found && strings.HasPrefix(name, programPrefix) || strings.Contains(line, clsactOurs)
	})
	return fault.Compare(before, after, func(line string) bool {
		id, _, found := cutProgram(line)
		return found && slices.Contains(o.programs, id) || strings.HasSuffix(line, clsactOurs+clsactIdle) || qdisc.LeftBehind(line)
	})
}

// cutProgram finds what programText has written.
func cutProgram(line string) (id ebpf.ProgramID, name string, found bool) {
	_, text, found := strings.Cut(line, "program ")
	if !found {
		return 0, "", false
	}
	_, err := fmt.Sscanf(text, "%d %s", &id, &name)
	return id, name, err == nil
}

// cgroupWatch lists the programs that are attached to a cgroup's packet hooks.
type cgroupWatch struct {
	cgroup fault.Cgroup
	own    *own
}

func (w cgroupWatch) Key() string {
	return fmt.Sprintf("cgroup %s, fault %08x", w.cgroup.Path, w.own.mark)
}

func (w cgroupWatch) Differences(before, after []string) []string {
	return w.own.differences(before, after)
}

func (w cgroupWatch) State() ([]string, error) {
	dir, err := w.cgroup.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	var lines []string
	for _, hook := range []struct {
		name   string
		attach ebpf.AttachType
	}{{"cgroup_skb egress", ebpf.AttachCGroupInetEgress}, {"cgroup_skb ingress", ebpf.AttachCGroupInetIngress}} {
		found, err := programs(hook.name, int(dir.Fd()), hook.attach)
		if err != nil {
			return nil, fmt.Errorf("looking at the programs of %s: %w", w.cgroup.Path, err)
		}
		lines = append(lines, found...)
	}
	return lines, nil
}

func programs(hook string, target int, attach ebpf.AttachType) ([]string, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: attach})
	if errors.Is(err, unix.ENODEV) {
		return nil, fault.ErrGone
	}
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, program := range result.Programs {
		lines = append(lines, hook+": "+programText(program.ID))
	}
	return lines, nil
}

func programName(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "(gone)"
	}
	defer func() { _ = program.Close() }()
	info, err := program.Info()
	if err != nil {
		return "(no name)"
	}
	return info.Name
}

// interfaceWatch lists the qdiscs, filters and TCX programs of an interface. It
// does not hold the namespace: it must not keep it from ending.
type interfaceWatch struct {
	netns uint64
	index int
	name  string
	own   *own
}

func watchInterface(i iface, own *own) interfaceWatch {
	return interfaceWatch{netns: i.namespace.Inode, index: i.index, name: i.name, own: own}
}

func (w interfaceWatch) Key() string {
	return fmt.Sprintf("interface %s in netns %d, fault %08x", w.name, w.netns, w.own.mark)
}

func (w interfaceWatch) Differences(before, after []string) []string {
	return w.own.differences(before, after)
}

func (w interfaceWatch) State() ([]string, error) {
	ns, err := netns.Find(w.netns)
	if err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, fault.ErrGone
	}
	defer func() { _ = ns.Close() }()
	var lines []string
	err = ns.Exclusively(func() (err error) {
		lines, err = w.state(ns)
		return err
	})
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fault.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", w.Key(), err)
	}
	return lines, nil
}

func (w interfaceWatch) state(ns *netns.Namespace) ([]string, error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByIndex(w.index)
	if err != nil {
		return nil, err
	}
	ours, err := clsact.List(ns)
	if err != nil {
		return nil, err
	}
	lines, err := queueing(ns, h, l, ours[w.index])
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		for _, hook := range []struct {
			name   string
			attach ebpf.AttachType
		}{{"tcx ingress", ebpf.AttachTCXIngress}, {"tcx egress", ebpf.AttachTCXEgress}} {
			found, err := programs(hook.name, w.index, hook.attach)
			// Kernels before 6.6 have no TCX.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrNotSupported) {
				return err
			}
			lines = append(lines, found...)
		}
		return nil
	})
	return lines, err
}

// What stands behind a clsact that carries our mark, and has no filter.
const (
	clsactOurs = " (faultline's)"
	clsactIdle = " without filters"
)

func queueing(ns *netns.Namespace, h *netlink.Handle, l netlink.Link, ours bool) ([]string, error) {
	lines, err := qdisc.Lines(ns, l)
	if err != nil {
		return nil, err
	}
	qdiscs, err := h.QdiscList(l)
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		attrs := q.Attrs()
		line := fmt.Sprintf("qdisc clsact %s parent %s", netlink.HandleStr(attrs.Handle), netlink.HandleStr(attrs.Parent))
		filters, err := filterLines(h, l)
		if err != nil {
			return nil, err
		}
		if ours {
			line += clsactOurs
			if len(filters) == 0 {
				line += clsactIdle
			}
		}
		lines = append(append(lines, line), filters...)
	}
	return lines, nil
}

func filterLines(h *netlink.Handle, l netlink.Link) (lines []string, err error) {
	for _, side := range []struct {
		name   string
		parent uint32
	}{{"ingress", netlink.HANDLE_MIN_INGRESS}, {"egress", netlink.HANDLE_MIN_EGRESS}} {
		filters, err := h.FilterList(l, side.parent)
		if err != nil {
			return nil, err
		}
		for _, filter := range filters {
			lines = append(lines, filterLine(side.name, filter))
		}
	}
	return lines, nil
}

func filterLine(direction string, filter netlink.Filter) string {
	attrs := filter.Attrs()
	line := fmt.Sprintf("filter %s %s priority %d handle %#x", direction, filter.Type(), attrs.Priority, attrs.Handle)
	if bpf, ok := filter.(*netlink.BpfFilter); ok {
		line += " " + bpf.Name + " " + programText(ebpf.ProgramID(bpf.Id))
	}
	return line
}

package network

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// programPrefix begins the name of every program of ours.
const programPrefix = "fl_"

// cgroupWatch lists the programs that are attached to a cgroup's packet hooks.
type cgroupWatch struct{ cgroup fault.Cgroup }

func (w cgroupWatch) Key() string { return "cgroup " + w.cgroup.Path }

func (w cgroupWatch) Differences(before, after []string) []string {
	return fault.Compare(before, after, func(line string) bool { return strings.Contains(line, " "+programPrefix) })
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
		lines = append(lines, fmt.Sprintf("%s: program %d %s", hook, program.ID, programName(program.ID)))
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
}

func watchInterface(i iface) interfaceWatch {
	return interfaceWatch{netns: i.namespace.inode, index: i.index, name: i.name}
}

func (w interfaceWatch) Key() string {
	return fmt.Sprintf("interface %s in netns %d", w.name, w.netns)
}

func (w interfaceWatch) Differences(before, after []string) []string {
	return fault.Compare(before, after, func(line string) bool {
		return strings.Contains(line, " "+programPrefix) || strings.Contains(line, " "+filterPrefix) || strings.HasSuffix(line, clsactOurs)
	})
}

func (w interfaceWatch) State() ([]string, error) {
	ns, err := findNamespace(w.netns)
	if err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, fault.ErrGone
	}
	defer func() { _ = ns.close() }()
	lines, err := w.state(ns)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fault.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", w.Key(), err)
	}
	return lines, nil
}

func (w interfaceWatch) state(ns *namespace) ([]string, error) {
	h, err := ns.handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByIndex(w.index)
	if err != nil {
		return nil, err
	}
	ours, err := clsacts(ns)
	if err != nil {
		return nil, err
	}
	lines, err := queueing(h, l, ours[w.index])
	if err != nil {
		return nil, err
	}
	err = ns.do(func() error {
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

// clsactOurs stands behind a clsact that carries our mark.
const clsactOurs = " (faultline's)"

func queueing(h *netlink.Handle, l netlink.Link, ours bool) ([]string, error) {
	qdiscs, err := h.QdiscList(l)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, qdisc := range qdiscs {
		attrs := qdisc.Attrs()
		line := fmt.Sprintf("qdisc %s %s parent %s", qdisc.Type(), netlink.HandleStr(attrs.Handle), netlink.HandleStr(attrs.Parent))
		if qdisc.Type() != "clsact" {
			lines = append(lines, line)
			continue
		}
		if ours {
			line += clsactOurs
		}
		lines = append(lines, line)
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
	}
	return lines, nil
}

func filterLine(direction string, filter netlink.Filter) string {
	attrs := filter.Attrs()
	line := fmt.Sprintf("filter %s %s priority %d handle %#x", direction, filter.Type(), attrs.Priority, attrs.Handle)
	if bpf, ok := filter.(*netlink.BpfFilter); ok {
		line += " " + bpf.Name
	}
	return line
}

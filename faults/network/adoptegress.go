package network

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
)

// openEgress finds the hooks at the interfaces: links by their pins, filters by
// their records.
func (a *adoption) openEgress(rec fault.Recorder, filters []fault.Open) error {
	hook := a.plan.hook
	if len(filters) > 0 && (hook == nil || hook.way.links) {
		return errors.New("the fault has cls_bpf filters, and the plan another mechanism")
	}
	if hook == nil {
		return nil
	}
	a.egress = a.newEgress(rec)
	if hook.way.links {
		names, err := a.pins.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, pinLinkTCX) {
				continue
			}
			if err := a.openTCX(name); err != nil {
				return err
			}
		}
	}
	for _, open := range filters {
		if err := a.openFilter(open); err != nil {
			return err
		}
	}
	return nil
}

func (a *adoption) openTCX(name string) error {
	at, err := parseTCXPin(name)
	if err != nil {
		return err
	}
	at.own = a.own
	l, info, err := a.openLink(name, a.plan.hook.program)
	if err != nil {
		return err
	}
	attached := info.TCX() != nil && int(info.TCX().Ifindex) == at.index
	return a.found(at, attached, func(context.Context) error { return detach(l) })
}

// openFilter looks for the filter of a record. A process that died between
// both has left none.
func (a *adoption) openFilter(open fault.Open) error {
	record := open.Undo.(TCFilter)
	filter, err := record.find()
	if err != nil {
		return err
	}
	if filter != nil {
		is, err := a.is(ebpf.ProgramID(filter.Id), a.plan.hook.program)
		if err != nil {
			return err
		}
		if !is {
			return fmt.Errorf("filter %s has program %d, and not the pinned one", record.Name, filter.Id)
		}
	}
	at := interfaceWatch{netns: record.NetNS, index: record.Index, name: record.Interface, own: a.own}
	return a.found(at, filter != nil, open.Undone.Undo)
}

// openQueues takes over the qdiscs at the interfaces that are hooked. Elsewhere
// only their undo is left to be done.
func (a *adoption) openQueues(queues []fault.Open) error {
	if len(queues) > 0 && (a.egress == nil || a.egress.queue == nil) {
		return errors.New("the fault has replaced qdiscs, and the plan would not")
	}
	for _, open := range queues {
		record := open.Undo.(qdisc.Root)
		at := place{record.NetNS, record.Index}
		ns := a.egress.held[record.NetNS]
		if ns == nil || a.egress.hooked[at] == nil {
			a.egress.rest = append(a.egress.rest, open.Undone.Undo)
			continue
		}
		a.egress.holds[at] = qdisc.Resume(ns, record, open.Undone)
	}
	return nil
}

// found notes what an earlier process has left at an interface. One that is
// hooked is not hooked again.
func (a *adoption) found(at interfaceWatch, hooked bool, unhook unhookFunc) error {
	a.watches = append(a.watches, at)
	e := a.egress
	if hooked && e.held[at.netns] == nil {
		ns, err := netns.Find(at.netns)
		if err != nil {
			return err
		}
		// Without being held the number may come to stand for another one.
		hooked = ns != nil
		if hooked {
			e.held[at.netns] = ns
		}
	}
	where := place{at.netns, at.index}
	if !hooked || e.hooked[where] != nil {
		e.rest = append(e.rest, unhook)
		return nil
	}
	e.hooked[where] = unhook
	return nil
}

// find returns nil where the filter, its interface or its namespace is not.
func (f TCFilter) find() (found *netlink.BpfFilter, err error) {
	err = f.at(func(_ *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
		filters, err := clsact.Filters(h, link, clsact.Egress)
		if err != nil {
			return err
		}
		for _, filter := range filters {
			if bpf, ok := filter.(*netlink.BpfFilter); ok && clsact.Name(bpf) == f.Name {
				found = bpf
			}
		}
		return nil
	})
	return found, err
}

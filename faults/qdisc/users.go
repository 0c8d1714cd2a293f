package qdisc

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
)

// How the names of programs begin that need fq at the interface to whose egress
// they are attached.
const (
	ProgramTCX = "fl_tcx_hold"
	ProgramCls = "fl_cls_hold"
)

// LeaseMap is the map of such a program that says until when its fault lasts:
// an array with one struct fl_lease of bpf/include/lease.h.
const LeaseMap = "fl_lease"

// beforeMap is the map that tells what was there before MarkExplicit.
const beforeMap = "fl_qdisc"

// user is a program that needs fq, at the egress of an interface.
type user struct {
	program ebpf.ProgramID
	// Where it is attached: one of both.
	link   link.ID
	filter netlink.Filter

	// lease is the id of its map; 0 when it has none.
	lease    ebpf.MapID
	deadline uint64
	before   []before
}

// before is what beforeMap holds as JSON, padded with spaces.
type before struct {
	NetNS uint64 `json:"netns"`
	Index int    `json:"index"`
	Tree  Tree   `json:"tree"`
}

// usersOf lists the programs that need fq, whether their lease runs or not.
// What ends meanwhile is not among them.
func usersOf(ns *netns.Namespace, at netlink.Link) ([]user, error) {
	list, err := tcxUsers(ns, at.Attrs().Index)
	if err != nil {
		return nil, fmt.Errorf("listing the tcx programs of %s: %w", at.Attrs().Name, err)
	}
	filters, err := clsUsers(ns, at)
	if err != nil {
		return nil, fmt.Errorf("listing the filters of %s: %w", at.Attrs().Name, err)
	}
	var needing []user
	for _, u := range append(list, filters...) {
		needs, err := u.read()
		if err != nil {
			return nil, fmt.Errorf("reading program %d: %w", u.program, err)
		}
		if needs {
			needing = append(needing, u)
		}
	}
	return needing, nil
}

func tcxUsers(ns *netns.Namespace, index int) (list []user, err error) {
	err = ns.Do(func() error {
		result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXEgress})
		// Kernels before 6.6 have no TCX.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, program := range result.Programs {
			id, _ := program.LinkID()
			list = append(list, user{program: program.ID, link: id})
		}
		return nil
	})
	return list, err
}

func clsUsers(ns *netns.Namespace, at netlink.Link) (list []user, err error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	filters, err := h.FilterList(at, netlink.HANDLE_MIN_EGRESS)
	// Without clsact there is no such parent.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok {
			list = append(list, user{program: ebpf.ProgramID(bpf.Id), filter: bpf})
		}
	}
	return list, nil
}

// read looks at the program and its maps, and tells whether it needs fq.
func (u *user) read() (needs bool, err error) {
	program, err := ebpf.NewProgramFromID(u.program)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = program.Close() }()
	info, err := program.Info()
	if err != nil {
		return false, err
	}
	if !strings.HasPrefix(info.Name, ProgramTCX) && !strings.HasPrefix(info.Name, ProgramCls) {
		return false, nil
	}
	return true, u.readMaps(info)
}

func (u *user) readMaps(info *ebpf.ProgramInfo) error {
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if err := u.readMap(id); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func (u *user) readMap(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	info, err := m.Info()
	if err != nil {
		return err
	}
	switch info.Name {
	case LeaseMap:
		// deadline and start
		var value [2]uint64
		if err := m.Lookup(uint32(0), &value); err != nil {
			return fmt.Errorf("reading its lease: %w", err)
		}
		u.lease, u.deadline = id, value[0]
	case beforeMap:
		text, err := m.LookupBytes(uint32(0))
		if err != nil {
			return fmt.Errorf("reading %s: %w", beforeMap, err)
		}
		var b before
		if err := json.Unmarshal(text, &b); err != nil {
			return fmt.Errorf("decoding %s: %w", beforeMap, err)
		}
		u.before = append(u.before, b)
	}
	return nil
}

// inUse tells whether a fault other than that of the lease needs the fq.
func inUse(users []user, lease ebpf.MapID) (bool, error) {
	now := fault.BootTime()
	var beginning []user
	for _, u := range users {
		switch {
		case lease != 0 && u.lease == lease:
		case u.deadline > now:
			return true, nil
		case u.deadline == 0:
			beginning = append(beginning, u)
		}
	}
	return held(beginning)
}

// held tells whether a process has one of the programs open.
func held(users []user) (bool, error) {
	if len(users) == 0 {
		return false, nil
	}
	programs, err := pin.HeldPrograms()
	if err != nil {
		return false, err
	}
	for _, u := range users {
		if programs[u.program] {
			return true, nil
		}
	}
	return false, nil
}

// known is the tree that the users say was there before MarkExplicit. It is nil
// when nobody says so, or they don't agree.
func known(users []user, ns *netns.Namespace, index int) (tree Tree) {
	for _, u := range users {
		said := u.said(ns, index)
		if said == nil {
			continue
		}
		if tree != nil && !tree.same(said) {
			return nil
		}
		tree = said
	}
	return tree
}

// said is what the user told last: the kernel keeps the order in which maps were
// bound.
func (u user) said(ns *netns.Namespace, index int) (tree Tree) {
	for _, b := range u.before {
		if b.NetNS == ns.Inode && b.Index == index {
			tree = b.Tree
		}
	}
	return tree
}

// tell lets those who come later know what was there before.
func tell(program *ebpf.Program, b before) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: beforeMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(text)), MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("making map %s: %w", beforeMap, err)
	}
	defer func() { _ = m.Close() }()
	if err := m.Put(uint32(0), text); err != nil {
		return fmt.Errorf("writing map %s: %w", beforeMap, err)
	}
	if err := program.BindMap(m); err != nil {
		return fmt.Errorf("binding map %s: %w", beforeMap, err)
	}
	return nil
}

// leaseOf finds the program's lease.
func leaseOf(program *ebpf.Program) (ebpf.MapID, error) {
	info, err := program.Info()
	if err != nil {
		return 0, fmt.Errorf("asking for a program: %w", err)
	}
	id, _ := info.ID()
	u := user{program: id}
	if needs, err := u.read(); err != nil || !needs || u.lease == 0 {
		return 0, errors.Join(fmt.Errorf("program %s is not named %s or %s, or has no map %s", info.Name, ProgramTCX, ProgramCls, LeaseMap), err)
	}
	return u.lease, nil
}

// leave takes the programs with the lease off the egress.
func leave(ns *netns.Namespace, users []user, lease ebpf.MapID) error {
	var errs []error
	for _, u := range users {
		if lease == 0 || u.lease != lease {
			continue
		}
		if u.filter != nil {
			errs = append(errs, removeFilter(ns, u.filter))
		} else if u.link != 0 {
			errs = append(errs, detach(u.link))
		}
	}
	return errors.Join(errs...)
}

func removeFilter(ns *netns.Namespace, filter netlink.Filter) error {
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	err = h.FilterDel(filter)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("removing the filter of the fault from its interface: %w", err)
	}
	return nil
}

func detach(id link.ID) error {
	l, err := link.NewFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening link %d: %w", id, err)
	}
	return errors.Join(pin.Detach(l), l.Close())
}

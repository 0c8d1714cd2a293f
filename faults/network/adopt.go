package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/tc"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
)

// adopt takes over what an earlier process has pinned of this plan.
func (p *plan) adopt(_ context.Context, rec fault.Recorder, open []fault.Open) (fault.Injection, error) {
	a := &adoption{injection: newInjection(p), used: map[string]bool{}}
	if err := a.takeOver(rec, open); err != nil {
		return nil, fmt.Errorf("adopting a pinned fault: %w", errors.Join(err, a.letGo()))
	}
	return a.injection, nil
}

// adoption is an injection while it is rebuilt.
type adoption struct {
	*injection
	// used are the pins that belong to the plan.
	used    map[string]bool
	opened  []io.Closer
	watches []fault.Watch
}

func (a *adoption) takeOver(rec fault.Recorder, open []fault.Open) error {
	pins, filters, queues, err := sortOpen(open)
	if err != nil {
		return err
	}
	if a.pins, err = pin.Open(pins.Undo.(pin.Directory).Dir, pins.Undone); err != nil {
		return err
	}
	a.watches = append(a.watches, a.pins.Watch())
	if err := a.openObjects(rec); err != nil {
		return err
	}
	if err := a.openCgroupLinks(); err != nil {
		return err
	}
	if err := a.openEgress(rec, filters); err != nil {
		return err
	}
	if err := a.openQueues(queues); err != nil {
		return err
	}
	if err := a.nothingElse(); err != nil {
		return err
	}
	if err := a.lease(); err != nil {
		return err
	}
	for _, watch := range a.watches {
		// An interface that is gone has nothing to be compared.
		if err := rec.Watch(watch); err != nil && !errors.Is(err, fault.ErrGone) {
			return err
		}
	}
	a.events, err = events.Read(a.maps[cgroupskb.ObjectsMapFlEvents], decodeEvent)
	return err
}

// letGo closes everything and takes nothing back.
func (a *adoption) letGo() error {
	var errs []error
	for _, c := range a.opened {
		errs = append(errs, c.Close())
	}
	if a.egress != nil {
		errs = append(errs, a.egress.release())
	}
	if a.pins != nil {
		errs = append(errs, a.pins.Close())
	}
	if a.wire != nil {
		a.wire.leave(a.number)
	}
	return errors.Join(errs...)
}

// sortOpen tells the record of the pins from those of the filters and qdiscs.
func sortOpen(open []fault.Open) (pins fault.Open, filters, queues []fault.Open, err error) {
	for _, o := range open {
		switch o.Undo.(type) {
		case pin.Directory:
			if pins.Undo != nil {
				return pins, nil, nil, errors.New("two directories of pins are on record")
			}
			pins = o
		case TCFilter:
			filters = append(filters, o)
		case qdisc.Root:
			queues = append(queues, o)
		default:
			return pins, nil, nil, fmt.Errorf("a record of kind %s does not belong to the fault", o.Undo.Kind())
		}
	}
	if pins.Undo == nil {
		return pins, nil, nil, errors.New("no directory of pins is on record")
	}
	return pins, filters, queues, nil
}

// openObjects opens the maps and programs, and compares them with what this
// version would load for the plan.
//
// The tags to compare with come from a fresh copy that the kernel has loaded,
// and not from ProgramSpec.Compatible: the kernel computes them over what the
// loader has made of the program for this kernel, and changes how (SHA-1 until
// 6.17, SHA-256 since). A tag leaves the maps out, so that the configuration,
// which is one, is compared by its content.
func (a *adoption) openObjects(rec fault.Recorder) (err error) {
	// Kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	if err := a.joinWire(rec); err != nil {
		return err
	}
	fresh := newInjection(a.plan)
	fresh.wire, fresh.number = a.wire, a.number
	defer func() {
		// It has counted nothing, and has no number of its own to give back.
		fresh.final, fresh.wire = &fault.Counters{}, nil
		err = errors.Join(err, fresh.close())
	}()
	if err := fresh.load(); err != nil {
		return err
	}
	a.own.mark = fresh.own.mark
	if err := fresh.fill(); err != nil {
		return err
	}
	if a.maps, err = a.openMaps(pinMap, fresh.maps); err != nil {
		return err
	}
	if a.hookMaps, err = a.openMaps(pinHookMap, fresh.hookMaps); err != nil {
		return err
	}
	for name, like := range fresh.programs {
		if err := a.openProgram(name, like); err != nil {
			return err
		}
	}
	return nil
}

// joinWire takes the place in the run that the fault had: its marks are known
// to nobody else.
func (a *adoption) joinWire(rec fault.Recorder) error {
	config, err := a.pinnedConfig()
	if err != nil {
		return err
	}
	w, err := commonWire(rec, func() (*wire, error) {
		w := &wire{run: config.Run, held: map[holder]time.Duration{}}
		var err, doneErr error
		w.decisions, err = a.pins.Map(mapPin(pinMap, tc.ObjectsMapFlDecisions))
		w.done, doneErr = a.pins.Map(mapPin(pinMap, tc.ObjectsMapFlDone))
		return w, errors.Join(err, doneErr)
	})
	if err != nil {
		return err
	}
	if w.run != config.Run {
		return fmt.Errorf("it has the marks %08x, and the other faults of the run %08x", config.Run, w.run)
	}
	if err := w.joinAs(config.Fault); err != nil {
		return err
	}
	a.wire, a.number = w, config.Fault
	return nil
}

func (a *adoption) pinnedConfig() (config cgroupskb.ObjectsFlConfig, err error) {
	m, err := a.pins.Map(mapPin(pinMap, rodata))
	if err != nil {
		return config, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	content, err := m.LookupBytes(uint32(0))
	if err != nil {
		return config, fmt.Errorf("reading the configuration: %w", err)
	}
	spec, err := compiled(cgroupPrograms)
	if err != nil {
		return config, err
	}
	variable := spec.Variables[cgroupskb.ObjectsVarFlConfig]
	first, end := int(variable.Offset), int(variable.Offset+variable.Size())
	if len(content) < end {
		return config, errors.New("the configuration in the kernel is not of this version")
	}
	variable.Value = content[first:end]
	if err := variable.Get(&config); err != nil {
		return config, fmt.Errorf("reading the configuration: %w", err)
	}
	return config, nil
}

// openMaps opens those that are pinned under the names of like.
func (a *adoption) openMaps(prefix string, like map[string]*ebpf.Map) (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for name, fresh := range like {
		pinned := mapPin(prefix, name)
		m, err := a.pins.Map(pinned)
		if err != nil {
			return nil, err
		}
		maps[name] = m
		a.opened = append(a.opened, m)
		a.used[pinned] = true
		if m.Type() != fresh.Type() || m.KeySize() != fresh.KeySize() || m.ValueSize() != fresh.ValueSize() || m.MaxEntries() != fresh.MaxEntries() {
			return nil, fmt.Errorf("map %s in the kernel is not of this version: %v, wanted %v", name, m, fresh)
		}
		if err := a.sameContent(name, m, fresh); err != nil {
			return nil, err
		}
	}
	return maps, nil
}

// sameContent compares the maps that are written once.
func (a *adoption) sameContent(name string, pinned, fresh *ebpf.Map) error {
	switch name {
	case cgroupskb.ObjectsMapFlLease, cgroupskb.ObjectsMapFlStats, cgroupskb.ObjectsMapFlState, cgroupskb.ObjectsMapFlEvents, cgroupskb.ObjectsMapFlMemory:
		return nil
	case cgroupskb.ObjectsMapFlDecisions, cgroupskb.ObjectsMapFlDone:
		return sameMap(name, pinned, fresh)
	case cgroupskb.ObjectsMapFlPeers:
		if len(a.plan.filter.Hosts) > 0 {
			return a.plan.peers.Merge(pinned)
		}
	}
	was, err := content(pinned)
	if err != nil {
		return err
	}
	want, err := content(fresh)
	if err != nil {
		return err
	}
	if !slices.Equal(was, want) {
		return fmt.Errorf("map %s in the kernel is not what the plan would write", name)
	}
	return nil
}

// sameMap tells whether it is the one that the other faults of the run have.
func sameMap(name string, a, b *ebpf.Map) error {
	info, err := a.Info()
	if err != nil {
		return fmt.Errorf("asking for map %s: %w", name, err)
	}
	other, err := b.Info()
	if err != nil {
		return fmt.Errorf("asking for map %s: %w", name, err)
	}
	id, _ := info.ID()
	if otherID, _ := other.ID(); id != otherID {
		return fmt.Errorf("map %s in the kernel is not that of the run's other faults", name)
	}
	return nil
}

// content lists keys and values, sorted.
func content(m *ebpf.Map) ([]string, error) {
	var list []string
	var key, value []byte
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		list = append(list, fmt.Sprintf("%x %x", key, value))
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("reading map %v: %w", m, err)
	}
	slices.Sort(list)
	return list, nil
}

func (a *adoption) openProgram(name string, fresh *ebpf.Program) error {
	program, err := a.pins.Program(pinProgram + name)
	if err != nil {
		return err
	}
	a.programs[name] = program
	a.opened = append(a.opened, program)
	a.used[pinProgram+name] = true
	if err := a.own.add(program); err != nil {
		return err
	}
	info, err := program.Info()
	if err != nil {
		return fmt.Errorf("asking for program %s: %w", name, err)
	}
	want, err := fresh.Info()
	if err != nil {
		return fmt.Errorf("asking for program %s: %w", name, err)
	}
	if info.Type != want.Type || info.Tag != want.Tag {
		return fmt.Errorf("program %s in the kernel has tag %s, this version's has %s", name, info.Tag, want.Tag)
	}
	maps, _ := info.MapIDs()
	for _, m := range a.pinnedMaps() {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("asking for the maps of program %s: %w", name, err)
		}
		id, _ := info.ID()
		maps = slices.DeleteFunc(maps, func(other ebpf.MapID) bool { return other == id })
	}
	if len(maps) > 0 {
		return fmt.Errorf("program %s in the kernel uses maps that are not pinned", name)
	}
	return nil
}

// openLink opens a link that must be one of program.
func (a *adoption) openLink(name, program string) (link.Link, *link.Info, error) {
	l, err := a.pins.Link(name)
	if err != nil {
		return nil, nil, err
	}
	a.opened = append(a.opened, l)
	a.used[name] = true
	info, err := l.Info()
	if err != nil {
		return nil, nil, fmt.Errorf("asking for link %s: %w", name, err)
	}
	is, err := a.is(info.Program, program)
	if err == nil && !is {
		err = fmt.Errorf("link %s has program %d, and not the pinned %s", name, info.Program, program)
	}
	return l, info, err
}

// is tells whether an id is that of the pinned program.
func (a *adoption) is(id ebpf.ProgramID, program string) (bool, error) {
	info, err := a.programs[program].Info()
	if err != nil {
		return false, fmt.Errorf("asking for program %s: %w", program, err)
	}
	pinned, _ := info.ID()
	return id == pinned, nil
}

func (a *adoption) openCgroupLinks() error {
	for _, cgroup := range a.plan.req.Cgroups {
		a.watches = append(a.watches, cgroupWatch{cgroup, a.own})
		for _, hook := range a.plan.cgroupHooks() {
			l, info, err := a.openLink(hook.pin(cgroup), hook.program)
			if err != nil {
				return err
			}
			of := info.Cgroup()
			if of == nil || of.CgroupId != cgroup.ID || ebpf.AttachType(of.AttachType) != hook.attach {
				return fmt.Errorf("link %s is not attached to %s any more", hook.pin(cgroup), cgroup.Path)
			}
			a.links = append(a.links, l)
		}
	}
	return nil
}

// nothingElse refuses pins that the plan would not have made: the fault that
// they are of is another one.
func (a *adoption) nothingElse() error {
	names, err := a.pins.Names()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return a.used[name] })
	if len(names) > 0 {
		return fmt.Errorf("the plan has no %s", strings.Join(names, ", "))
	}
	return nil
}

// lease finds out whether the fault is still on, and when it began.
func (a *adoption) lease() error {
	var lease cgroupskb.ObjectsFlLease
	if err := a.maps[cgroupskb.ObjectsMapFlLease].Lookup(uint32(0), &lease); err != nil {
		return fmt.Errorf("reading lease: %w", err)
	}
	now := fault.BootTime()
	switch {
	case lease.Start == 0 || lease.Deadline == 0:
		return errors.New("the fault had not begun, or was already being taken back")
	case lease.Deadline <= now:
		return fmt.Errorf("the lease ended %s ago", time.Duration(now-lease.Deadline).Round(time.Millisecond))
	}
	a.start = lease.Start
	return nil
}

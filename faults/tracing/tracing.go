// Package tracing keeps faults that live in programs at functions of the kernel.
// Everybody's calls come by there, and the programs look at the task that makes
// them: whether it is of the target (bpf/include/task.h).
//
// Nothing of such a fault outlives the process.
package tracing

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// programNameMax is how much of a program's name the kernel keeps (BPF_OBJ_NAME_LEN).
const programNameMax = 15

// programPrefix begins the name of every program of ours.
const programPrefix = "fl_"

// Hook is a function of the kernel, and the program for it.
type Hook struct {
	// Function is its name: "__x64_sys_openat".
	Function string
	// ID is its id in the kernel's types; 0 for a kprobe.
	ID btf.TypeID
	// Program is the one of Fault.Spec that runs there.
	Program string
	// Name is what the kernel shows of it, after a prefix of ours.
	Name string
	// Alone: nobody does what this program does not do. A kernel that preempts does
	// not run it while a task is preempted in it on the same CPU.
	Alone bool
}

// Fault is what is put in place.
type Fault struct {
	// Spec holds the programs, configured; it must be a copy of the caller's own.
	// Its maps are those of bpf/include: fl_lease, fl_stats, fl_events, fl_targets,
	// fl_cgroups.
	Spec    *ebpf.CollectionSpec
	Hooks   []Hook
	Cgroups []fault.Cgroup
	// Observe: nothing is hit, and what was chosen counts as hit.
	Observe bool
	// Decode makes an event of what the programs write to fl_events.
	Decode func([]byte) *v1.Event
}

// Target is struct fl_target, which tells the programs how to find their cgroups.
type Target struct {
	Levels  uint32
	Cgroups uint32
}

// cgroupsMax is CGROUPS_MAX of bpf/include/task.h.
const cgroupsMax = 32

// TargetOf describes cgroups. The error says what of them this kernel can't take.
func TargetOf(cgroups []fault.Cgroup) (Target, error) {
	if err := fault.CheckTargets(cgroups); err != nil {
		return Target{}, err
	}
	var t Target
	for _, cgroup := range cgroups {
		t.Levels |= 1 << cgroup.Level
	}
	err := features.HaveProgramHelper(ebpf.Kprobe, asm.FnGetCurrentAncestorCgroupId)
	if err == nil {
		return t, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return Target{}, fmt.Errorf("asking how the kernel tells a task's cgroup: %w", err)
	}
	if len(cgroups) > cgroupsMax {
		return Target{}, fmt.Errorf("the target has %d cgroups; at most %d are supported on kernels before 5.16", len(cgroups), cgroupsMax)
	}
	return Target{Cgroups: uint32(len(cgroups))}, nil
}

// Try loads the program of each hook and, where that does not tell, attaches it,
// idle, for a moment. It returns those that the kernel does not take, by their
// functions.
func (f *Fault) Try() (map[string]error, error) {
	if err := unlimit(); err != nil {
		return nil, err
	}
	maps, err := f.newMaps()
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	refused := map[string]error{}
	for _, hook := range f.Hooks {
		if err := f.try(maps, hook); err != nil {
			refused[hook.Function] = err
		}
	}
	return refused, nil
}

func (f *Fault) try(maps *ebpf.Collection, hook Hook) (err error) {
	program, err := f.load(maps, hook)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	// The kernel looks at the function of others when they are loaded.
	if program.Type() != ebpf.Kprobe {
		return nil
	}
	l, err := attach(program, hook)
	if err != nil {
		return err
	}
	return l.Close()
}

// unlimit is for kernels before 5.11, which charge BPF memory to RLIMIT_MEMLOCK.
func unlimit() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	return nil
}

// newMaps makes the maps of the programs, and no program.
func (f *Fault) newMaps() (*ebpf.Collection, error) {
	spec := f.Spec.Copy()
	clear(spec.Programs)
	maps, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("making the maps of programs: %w", err)
	}
	return maps, nil
}

// load loads the program of a hook.
func (f *Fault) load(maps *ebpf.Collection, hook Hook) (*ebpf.Program, error) {
	spec := f.Spec.Programs[hook.Program].Copy()
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		if !ins.IsLoadFromMap() {
			continue
		}
		if err := ins.AssociateMap(maps.Maps[ins.Reference()]); err != nil {
			return nil, fmt.Errorf("giving program %s map %s: %w", hook.Program, ins.Reference(), err)
		}
	}
	name := programPrefix + hook.Name
	name = name[:min(len(name), programNameMax)]
	if spec.Type == ebpf.Kprobe {
		spec.Name = name
		return ebpf.NewProgram(spec)
	}
	return kernel.Load(kernel.Traced{
		Type: spec.Type, Attach: spec.AttachType, Function: hook.ID, Name: name, Flags: spec.Flags,
		Instructions: spec.Instructions,
	})
}

func attach(program *ebpf.Program, hook Hook) (l link.Link, err error) {
	if program.Type() == ebpf.Kprobe {
		l, err = link.Kprobe(hook.Function, program, nil)
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: program, AttachType: ebpf.AttachModifyReturn})
	}
	if err != nil {
		return nil, fmt.Errorf("attaching to %s: %w", hook.Function, err)
	}
	return l, nil
}

// Inject puts the programs in place, idle.
func (f *Fault) Inject(ctx context.Context, rec fault.Recorder) (fault.Injection, error) {
	in := &injection{fault: f}
	if err := in.set(rec); err != nil {
		return nil, errors.Join(err, in.Revert(context.WithoutCancel(ctx)))
	}
	return in, nil
}

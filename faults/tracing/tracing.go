// Package tracing keeps faults that live in programs at functions of the kernel.
// Everybody's calls come by there, and the programs look at the task that makes
// them: whether it is of the target (bpf/include/task.h). Some kinds have programs at
// hooks of the target's cgroups instead, where nobody else's calls come by.
//
// Nothing of such a fault outlives the process.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/cgrouplink"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// programNameMax is how much of a program's name the kernel keeps (BPF_OBJ_NAME_LEN).
const programNameMax = 15

// programPrefix begins the name of every program of ours.
const programPrefix = "fl_"

// Hook is a function of the kernel, or a hook of the target's cgroups, and the program
// for it.
type Hook struct {
	// Function is its name: "__x64_sys_openat", "cgroup/connect4".
	Function string
	// ID is its id in the kernel's types; 0 for a kprobe, a tracepoint and a hook of
	// cgroups.
	ID btf.TypeID
	// Program is the one of Fault.Spec that runs there.
	Program string
	// Name is what the kernel shows of it, after a prefix of ours.
	Name string
	// Alone: nobody does what this program does not do. A kernel that preempts does
	// not run it while a task is preempted in it on the same CPU.
	Alone bool
	// Only32: it is for 32-bit processes alone.
	Only32 bool
	// Spare says what is not hit without it, where it can be done without; "" where it
	// can't. Those that say the same go together.
	Spare string
	// Variables are set for this program alone; nil for none.
	Variables map[string]any
}

// With sets a variable for the hook's program alone.
func (h Hook) With(name string, value any) Hook {
	variables := map[string]any{name: value}
	maps.Copy(variables, h.Variables)
	h.Variables = variables
	return h
}

// Calls32 is Hook.Spare of a function that carries calls of 32-bit processes out.
func Calls32(function string) string { return "calls of 32-bit processes by " + function }

// Fault is what is put in place.
type Fault struct {
	// Spec holds the programs, configured but for what bpf/include/failure.h and
	// verdict.h want; it must be a copy of the caller's own.
	// Its maps are those of bpf/include: fl_lease, fl_stats, and where programs look at
	// tasks fl_targets and fl_cgroups.
	Spec    *ebpf.CollectionSpec
	Hooks   []Hook
	Cgroups []fault.Cgroup
	Failure Failure
	// Keep fills other maps, when they are made, and sees about once a second to it
	// that they say what is. It may be nil.
	Keep func(ctx context.Context, maps map[string]*ebpf.Map) error
	// Decode makes an event of what the programs write to fl_events; nil if they don't.
	Decode func([]byte) *v1.Event
}

// Try loads the program of each hook and, where that does not tell, attaches it,
// idle, for a moment. It returns those that the kernel does not take, by their
// functions.
func (f *Fault) Try() (map[string]error, error) {
	if err := unlimit(); err != nil {
		return nil, err
	}
	shared, err := f.newMaps(nil)
	if err != nil {
		return nil, err
	}
	defer shared.Close()
	refused := map[string]error{}
	type pair struct{ function, program string }
	tried := map[pair]bool{}
	for _, hook := range f.Hooks {
		if one := (pair{hook.Function, hook.Program}); !tried[one] {
			tried[one] = true
			if err := f.try(shared, hook); err != nil {
				refused[hook.Function] = err
			}
		}
	}
	return refused, nil
}

func (f *Fault) try(shared *ebpf.Collection, hook Hook) (err error) {
	program, err := f.load(shared, hook)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	// The kernel looks at the function of others when they are loaded.
	if program.Type() != ebpf.Kprobe {
		return nil
	}
	l, err := attachFunction(program, hook, ebpf.AttachNone)
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

// newMaps makes the maps of the programs but for those that are there, and no program.
func (f *Fault) newMaps(there map[string]*ebpf.Map) (*ebpf.Collection, error) {
	if err := f.configure(); err != nil {
		return nil, err
	}
	spec := f.Spec.Copy()
	clear(spec.Programs)
	shared, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: there})
	if err != nil {
		return nil, fmt.Errorf("making the maps of programs: %w", err)
	}
	return shared, nil
}

// configure tells the programs what most of them want to know.
func (f *Fault) configure() error {
	abi, _ := kernel.Syscalls() // without it there are no probes of calls
	for name, value := range map[string]any{failureVariable: f.Failure, parametersVariable: abi.Parameters} {
		variable := f.Spec.Variables[name]
		if variable == nil {
			continue // nobody asks
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("configuring programs: %w", err)
		}
	}
	return nil
}

// The variables of bpf/include.
const (
	failureVariable    = "fl_failure"
	parametersVariable = "fl_parameters"
)

// load loads the program of a hook.
func (f *Fault) load(shared *ebpf.Collection, hook Hook) (*ebpf.Program, error) {
	spec := f.Spec.Programs[hook.Program].Copy()
	constants, err := f.constants(hook)
	if err != nil {
		return nil, fmt.Errorf("configuring program %s: %w", hook.Program, err)
	}
	if constants != nil {
		defer func() { _ = constants.Close() }() // the program has it
	}
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		if !ins.IsLoadFromMap() {
			continue
		}
		m := shared.Maps[ins.Reference()]
		if ins.Reference() == constantsMap && constants != nil {
			m = constants
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("giving program %s map %s: %w", hook.Program, ins.Reference(), err)
		}
	}
	name := programPrefix + hook.Name
	name = name[:min(len(name), programNameMax)]
	if hook.ID == 0 {
		spec.Name = name
		return ebpf.NewProgram(spec)
	}
	return kernel.Load(kernel.Traced{
		Type: spec.Type, Attach: spec.AttachType, Function: hook.ID, Name: name, Flags: spec.Flags,
		Instructions: spec.Instructions,
	})
}

// constantsMap holds what is volatile const in C.
const constantsMap = ".rodata"

// constants makes a map of them for a hook that has some of its own; nil for others.
func (f *Fault) constants(hook Hook) (*ebpf.Map, error) {
	if len(hook.Variables) == 0 {
		return nil, nil
	}
	spec := f.Spec.Copy()
	for name, value := range hook.Variables {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, err
		}
	}
	clear(spec.Programs)
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool { return name != constantsMap })
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	defer collection.Close()
	return collection.DetachMap(constantsMap), nil
}

// kprobeUnit is there where perf_event_open(2) makes kprobes.
const kprobeUnit = "/sys/bus/event_source/devices/kprobe/type"

// attach returns the links also with an error.
func (f *Fault) attach(program *ebpf.Program, hook Hook) ([]link.Link, error) {
	if !hook.ofCgroups(f.Spec) {
		l, err := attachFunction(program, hook, f.Spec.Programs[hook.Program].AttachType)
		if err != nil {
			return nil, err
		}
		return []link.Link{l}, nil
	}
	var links []link.Link
	for _, cgroup := range f.Cgroups {
		l, err := cgrouplink.Attach(cgroup, program, f.Spec.Programs[hook.Program].AttachType)
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return links, err
		}
		links = append(links, l)
	}
	return links, nil
}

// ofCgroups tells whether a hook is one of the target's cgroups.
func (h Hook) ofCgroups(spec *ebpf.CollectionSpec) bool {
	switch spec.Programs[h.Program].Type {
	case ebpf.CGroupSockAddr, ebpf.CGroupSockopt:
		return true
	default:
		return false
	}
}

// trampolineMax is how many programs a function's trampoline has room for
// (BPF_MAX_TRAMP_LINKS).
const trampolineMax = 38

// attachFunction attaches a program, in a way that counts for those of trampolines.
func attachFunction(program *ebpf.Program, hook Hook, at ebpf.AttachType) (l link.Link, err error) {
	switch program.Type() {
	case ebpf.Kprobe:
		// Without it the library makes a probe that outlives the process (tracefs).
		if _, err := os.Stat(kprobeUnit); err != nil {
			return nil, fmt.Errorf("looking for probes that end with the process: %w", err)
		}
		l, err = link.Kprobe(hook.Function, program, nil)
	case ebpf.RawTracepoint:
		l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: hook.Function, Program: program})
	case ebpf.LSM:
		l, err = link.AttachLSM(link.LSMOptions{Program: program})
	default:
		l, err = link.AttachTracing(link.TracingOptions{Program: program, AttachType: at})
	}
	if errors.Is(err, unix.E2BIG) {
		return nil, fmt.Errorf("attaching to %s: it has as many programs as the kernel allows (%d), those of other faults and tools among them; end these first: %w",
			hook.Function, trampolineMax, err)
	}
	if err != nil {
		return nil, fmt.Errorf("attaching to %s: %w", hook.Function, err)
	}
	return l, nil
}

// Inject puts the programs in place, idle.
func (f *Fault) Inject(ctx context.Context, rec fault.Recorder) (fault.Injection, error) {
	in := &injection{fault: f}
	if err := in.set(ctx, rec); err != nil {
		return nil, errors.Join(err, in.Revert(context.WithoutCancel(ctx)))
	}
	return in, nil
}

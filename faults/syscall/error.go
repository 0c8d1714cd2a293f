package syscall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// The mechanisms.
const (
	mechanismModify   = "fmod_ret"
	mechanismOverride = "kprobe_override"
	// The others are asked while a call is carried out.
	mechanismLSM   = tracing.MechanismLSM
	mechanismAsked = tracing.MechanismModify
)

// Error is syscallError: calls that fail and are not carried out.
func Error() fault.Kind {
	return fault.Kind{
		Name:    "syscallError",
		Summary: "system calls fail with an errno, with conditions on arguments and path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismModify,
				Summary: "fmod_ret programs at the functions of the calls",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSyscall, kernel.RingBuf},
			},
			{
				Name:    mechanismOverride,
				Summary: "kprobes at the functions of the calls, which override their results",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.KprobeOverride, kernel.RingBuf},
			},
			{
				Name:    mechanismLSM,
				Summary: "programs that the kernel asks as a security module while it carries a call out; for calls at which it asks once",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSM, kernel.RingBuf},
			},
			{
				Name:    mechanismAsked,
				Summary: "fmod_ret on the functions that ask all security modules; for the same calls",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity, kernel.RingBuf},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
syscallError:
  calls: [openat]
  errno: EMFILE
  arguments: [{index: 2, is: HAS_BITS, value: 0x40}]
rate: {every: 10}
duration: 60s`,
		Validate: validateError,
		Plan:     planError,
	}
}

// hanging are calls on which a program's threads wait for one another: when one
// fails, they may wait for ever, also for their end.
var hanging = []string{"futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"}

func validateError(spec *v1.Fault) []fault.Problem {
	call := spec.GetSyscallError()
	p := check.Problems{Prefix: "syscallError"}
	p.Errno("errno", call.GetErrno())
	validateCalls(&p, call)
	for i, name := range call.GetCalls() {
		if slices.Contains(hanging, name) && !call.GetAllowHang() {
			p.Add(fmt.Sprintf("calls[%d]", i), "threads wait for one another with %q, and may do so for ever when it fails; write allowHang: true if that is wanted", name)
		}
	}
	p.NoFilter(spec, "syscallError")
	return p.List()
}

// errorPlan is what a syscallError is planned from.
type errorPlan struct {
	req     fault.Request
	spec    *v1.SyscallError
	failure tracing.Failure
	// left are warnings about functions that a mechanism leaves out.
	left []string
}

func planError(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p := &errorPlan{req: req, spec: req.Spec.GetSyscallError()}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of syscallError is %w; leave it out", fault.ErrNotBuilt)
	}
	var err error
	if p.failure, err = tracing.NewFailure(req, tracing.Errno{Name: p.spec.GetErrno(), Weight: 1}); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), []string{mechanismModify, mechanismOverride, mechanismLSM, mechanismAsked},
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	return p.finish(mechanism, programs)
}

// programs are those that a mechanism puts in place.
func (p *errorPlan) programs(ctx context.Context, mechanism string) (*tracing.Fault, error) {
	hooks, err := p.hooks(mechanism)
	if err != nil {
		return nil, err
	}
	load := syscalls.LoadObjects
	if !p.req.Prober.Probe(ctx, kernel.AtomicFetch).OK() {
		load = syscalls.LoadOldObjects
	}
	spec, err := load()
	if err != nil {
		return nil, err
	}
	config, err := p.config(mechanism)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		syscalls.ObjectsVarFlCallConfig: config, syscalls.ObjectsVarFlPathConfig: p.pathConfig(),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("configuring programs: %w", err)
		}
	}
	f := &tracing.Fault{
		Spec: spec, Cgroups: p.req.Cgroups, Failure: p.failure, Hooks: hooks, Decode: events.Decoder((*callEvent).event),
		Keep: p.keep,
	}
	p.left, err = f.Prune("syscallError", mechanism)
	return f, err
}

// keep tells the programs what does not fit into a variable.
func (p *errorPlan) keep(_ context.Context, maps map[string]*ebpf.Map) error {
	return errors.Join(p.keepPath(maps), p.keepAskings(maps))
}

// hooks are those that a mechanism has for the calls.
func (p *errorPlan) hooks(mechanism string) (list []tracing.Hook, err error) {
	if isAsked(mechanism) {
		return p.asked(mechanism)
	}
	find, at := lookup(inTypes), modifying
	switch {
	case mechanism == mechanismOverride:
		find, at = inSymbols, overriding
	case kernel.Preempts():
		at = delivering
	}
	functions, err := functionsOf(p.spec.GetCalls(), find)
	if err != nil {
		return nil, err
	}
	for _, fn := range functions {
		for _, hook := range at(fn) {
			if p.spec.GetPath() != "" && hook.Program != tracing.DeliverProgram {
				hook.Variables = map[string]any{syscalls.ObjectsVarFlPathArguments: uint32(pathArguments(fn.call))}
			}
			list = append(list, hook)
		}
	}
	return list, nil
}

// finish adds what is said and claimed.
func (p *errorPlan) finish(mechanism string, programs *tracing.Fault) (*fault.Plan, error) {
	warnings, err := p.warnings()
	if err != nil {
		return nil, err
	}
	if p.spec.GetPath() != "" {
		warnings = append(warnings, pathWarning)
	}
	warnings = append(warnings, p.left...)
	if isAsked(mechanism) {
		warnings = append(warnings, askedWarning)
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(),
		Changes:   programs.Changes(mechanism),
		Warnings:  warnings,
		Claims:    []fault.Claim{Calls{Cgroups: p.req.Cgroups, Names: p.spec.GetCalls(), InTurn: mechanism != mechanismOverride}},
		Inject:    programs.Inject,
	}, nil
}

func (p *errorPlan) summary() string {
	text := fmt.Sprintf("%s fail with %s", strings.Join(p.spec.GetCalls(), ", "), p.spec.GetErrno())
	for _, a := range p.spec.GetArguments() {
		text += fmt.Sprintf(", if argument %d %s %d", a.GetIndex(), comparisons[a.GetIs()], a.GetValue())
	}
	if path := p.spec.GetPath(); path != "" {
		text += ", if a path is written as " + path
	}
	if p.req.Observe {
		return "only count: " + text
	}
	return text
}

var comparisons = map[v1.Argument_Comparison]string{
	v1.Argument_EQUAL: "is", v1.Argument_NOT_EQUAL: "is not", v1.Argument_LESS: "is less than",
	v1.Argument_GREATER: "is greater than", v1.Argument_HAS_BITS: "has the bits of",
}

// callConfig is struct fl_call_config.
type callConfig struct {
	Conditions     [conditionsMax]condition
	ConditionsUsed uint32
	NumberOffset   uint32
	ModeOffset     uint32
	StackOffset    uint32
	CompatOffset   uint32
	CompatBit      uint32
}

// condition is struct fl_condition.
type condition struct {
	Value      int64
	Offset     [2]uint32
	Comparison uint32
	_          uint32
}

func (p *errorPlan) config(mechanism string) (callConfig, error) {
	abi, _ := kernel.Syscalls() // the calls were found
	config := callConfig{NumberOffset: abi.Number, ModeOffset: abi.Mode, CompatBit: abi.CompatBit}
	for i, a := range p.spec.GetArguments() {
		config.Conditions[i] = condition{
			Value:      a.GetValue(),
			Offset:     [2]uint32{abi.Arguments[a.GetIndex()], abi.Arguments32[a.GetIndex()]},
			Comparison: uint32(a.GetIs()),
		}
	}
	config.ConditionsUsed = uint32(len(p.spec.GetArguments()))
	if !isAsked(mechanism) {
		return config, nil
	}
	return config, kernel.Offsets(map[string]*uint32{"task_struct.stack": &config.StackOffset, abi.Compat: &config.CompatOffset})
}

package syscall

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// calls are the fields of a fault that say which calls are meant.
type calls interface {
	GetCalls() []string
	GetArguments() []*v1.Argument
	GetPath() string
}

// callPlan is what faults of calls are planned from.
type callPlan struct {
	req     fault.Request
	calls   calls
	failure tracing.Failure
	// left are warnings about functions that a mechanism leaves out.
	left []string
}

// fault has programs at hooks, without those that the kernel does not take and that can be
// done without.
func (p *callPlan) fault(load func() (*ebpf.CollectionSpec, error), hooks []tracing.Hook, kind, mechanism string) (*tracing.Fault, error) {
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
	p.left, err = f.Prune(kind, mechanism)
	return f, err
}

// keep tells the programs what does not fit into a variable.
func (p *callPlan) keep(_ context.Context, maps map[string]*ebpf.Map) error {
	return errors.Join(p.keepPath(maps), p.keepAskings(maps))
}

// atFunctions are the hooks at the functions of the calls.
func (p *callPlan) atFunctions(find lookup, at func(function) []tracing.Hook) (list []tracing.Hook, err error) {
	functions, err := functionsOf(p.calls.GetCalls(), find)
	if err != nil {
		return nil, err
	}
	for _, fn := range functions {
		for _, hook := range at(fn) {
			if p.calls.GetPath() != "" && tracing.Decides(hook.Program) {
				hook = hook.With(syscalls.ObjectsVarFlPathArguments, uint32(pathArguments(fn.call)))
			}
			list = append(list, hook)
		}
	}
	return list, nil
}

// finish adds what is said and claimed. what becomes of the calls is a predicate.
func (p *callPlan) finish(mechanism string, programs *tracing.Fault, what string) (*fault.Plan, error) {
	warnings, err := p.warnings()
	if err != nil {
		return nil, err
	}
	if p.calls.GetPath() != "" {
		warnings = append(warnings, pathWarning)
	}
	warnings = append(warnings, p.left...)
	if isAsked(mechanism) {
		warnings = append(warnings, askedWarning)
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(what),
		Changes:   programs.Changes(mechanism),
		Warnings:  warnings,
		Claims:    []fault.Claim{Calls{Cgroups: p.req.Cgroups, Names: p.calls.GetCalls(), InTurn: mechanism != mechanismOverride}},
		Inject:    programs.Inject,
	}, nil
}

func (p *callPlan) summary(what string) string {
	text := fmt.Sprintf("%s %s", strings.Join(p.calls.GetCalls(), ", "), what)
	for _, a := range p.calls.GetArguments() {
		text += fmt.Sprintf(", if argument %d %s %d", a.GetIndex(), comparisons[a.GetIs()], a.GetValue())
	}
	if path := p.calls.GetPath(); path != "" {
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

func (p *callPlan) config(mechanism string) (callConfig, error) {
	abi, _ := kernel.Syscalls() // the calls were found
	config := callConfig{NumberOffset: abi.Number, ModeOffset: abi.Mode, CompatBit: abi.CompatBit}
	for i, a := range p.calls.GetArguments() {
		config.Conditions[i] = condition{
			Value:      a.GetValue(),
			Offset:     [2]uint32{abi.Arguments[a.GetIndex()], abi.Arguments32[a.GetIndex()]},
			Comparison: uint32(a.GetIs()),
		}
	}
	config.ConditionsUsed = uint32(len(p.calls.GetArguments()))
	if !isAsked(mechanism) {
		return config, nil
	}
	return config, kernel.Offsets(map[string]*uint32{"task_struct.stack": &config.StackOffset, abi.Compat: &config.CompatOffset})
}

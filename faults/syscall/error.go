package syscall

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/check"
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
	callPlan
	spec *v1.SyscallError
}

func planError(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	spec := req.Spec.GetSyscallError()
	p := &errorPlan{callPlan{req: req, calls: spec}, spec}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of syscallError is %w; leave it out", fault.ErrNotBuilt)
	}
	var err error
	if p.failure, err = tracing.NewFailure(req, tracing.Errno{Name: spec.GetErrno(), Weight: 1}); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), []string{mechanismModify, mechanismOverride, mechanismLSM, mechanismAsked},
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	plan, err := p.finish(mechanism, programs, "fail with "+spec.GetErrno())
	if err != nil {
		return nil, err
	}
	if kills := p.named(vital); len(kills) > 0 {
		plan.Warnings = append([]string{fmt.Sprintf("a program usually ends when %s fails", strings.Join(kills, " or "))}, plan.Warnings...)
	}
	return plan, nil
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
	return p.fault(load, hooks, "syscallError", mechanism)
}

// hooks are those that a mechanism has for the calls.
func (p *errorPlan) hooks(mechanism string) ([]tracing.Hook, error) {
	if isAsked(mechanism) {
		wanted, err := p.asked("syscallError", mechanism)
		if err != nil {
			return nil, err
		}
		return tracing.AtSecurityHooks(mechanism, wanted)
	}
	find, at := lookup(inTypes), modifying
	switch {
	case mechanism == mechanismOverride:
		find, at = inSymbols, overriding
	case kernel.Preempts():
		at = delivering
	}
	return p.atFunctions(find, at)
}

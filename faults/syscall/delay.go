package syscall

import (
	"context"
	"fmt"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// Delay is syscallDelay: calls that are carried out later.
func Delay() fault.Kind {
	return fault.Kind{
		Name:    "syscallDelay",
		Summary: "system calls take longer, with conditions on arguments and path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    tracing.MechanismSleepableModify,
				Summary: "lanes of sleepable fmod_ret programs at the functions of the calls",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.SleepableFmodRet, kernel.RingBuf),
			},
			{
				Name:    tracing.MechanismTaskWork,
				Summary: "a probe at the functions of the calls, and the task waits before it returns to user space",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.TracingPermission, kernel.TaskWork, kernel.RingBuf),
			},
			{
				Name:    tracing.MechanismSleepableLSM,
				Summary: "sleepable programs that the kernel asks as a security module while it carries a call out; not for read and write",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.SleepableLSM, kernel.RingBuf),
			},
		},
		Example: `target: {systemdUnit: checkout.service}
syscallDelay: {calls: [fsync, fdatasync], delay: 200ms, jitter: 50ms, distribution: PARETO}
duration: 60s`,
		Validate: func(spec *v1.Fault) []fault.Problem {
			p := check.Problems{Prefix: "syscallDelay"}
			validateCalls(&p, spec.GetSyscallDelay())
			p.Delay(spec.GetSyscallDelay(), true)
			p.NoFilter(spec, "syscallDelay")
			return p.List()
		},
		Plan: planDelay,
	}
}

// delayPlan is what a syscallDelay is planned from.
type delayPlan struct {
	callPlan
	delay tracing.Delay
}

func planDelay(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	spec := req.Spec.GetSyscallDelay()
	p := &delayPlan{callPlan: callPlan{req: req, calls: spec}}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of syscallDelay can't be done: nobody would wake who sleeps; leave it out")
	}
	var err error
	if p.delay, err = tracing.NewDelay(req.Seed, spec); err != nil {
		return nil, err
	}
	if p.failure, err = tracing.NewFailure(req); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Delay(), []string{tracing.MechanismSleepableModify, tracing.MechanismTaskWork, tracing.MechanismSleepableLSM}, p.programs)
	if err != nil {
		return nil, err
	}
	plan, err := p.finish(mechanism, programs, p.delay.Describe(mechanism))
	if err != nil {
		return nil, err
	}
	if mechanism == tracing.MechanismSleepableLSM {
		plan.Warnings = append(plan.Warnings, "a call may wait with a directory locked that others use, as rename and unlink do")
	}
	return plan, nil
}

// programs are those that a mechanism puts in place.
func (p *delayPlan) programs(mechanism string) (*tracing.Fault, error) {
	hooks, err := p.hooks(mechanism)
	if err != nil {
		return nil, err
	}
	f, err := p.fault(syscalls.LoadDelays, hooks, "syscallDelay", mechanism)
	if err != nil {
		return nil, err
	}
	return f, p.delay.Configure(f, p.keep)
}

func (p *delayPlan) hooks(mechanism string) ([]tracing.Hook, error) {
	switch mechanism {
	case tracing.MechanismSleepableModify:
		return p.atFunctions(inTypes, waiting)
	case tracing.MechanismTaskWork:
		return p.atFunctions(inTypes, waitingAtReturn)
	}
	wanted, err := p.asked("syscallDelay", mechanism)
	if err != nil {
		return nil, err
	}
	return tracing.SleptAtSecurityHooks(mechanism, wanted)
}

// waiting are the hooks of a function whose calls wait.
func waiting(fn function) []tracing.Hook { return delaying(fn).Slept() }

// waitingAtReturn are those of one whose calls wait when they were carried out.
func waitingAtReturn(fn function) []tracing.Hook { return delaying(fn).SleptAtReturn() }

func delaying(fn function) tracing.Hook {
	return fn.hook(syscalls.DelaysProgFlDelayCall, syscalls.DelaysProgFlDelayCall32, false)
}

package file

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/files"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// Delay is fileDelay: operations on files that take longer.
func Delay() fault.Kind {
	return fault.Kind{
		Name:    "fileDelay",
		Summary: "open, read, write, fsync, stat, unlink, rename and others take longer, by path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    tracing.MechanismTaskWork,
				Summary: "probes where the kernel asks its security modules, and the task waits before it returns to user space",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.TracingPermission, kernel.TaskWork, kernel.RingBuf),
			},
			{
				Name:    tracing.MechanismSleepableLSM,
				Summary: "sleepable programs that the kernel asks as a security module; not for READ, WRITE and FSYNC",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.SleepableLSM, kernel.RingBuf),
			},
			{
				Name:    tracing.MechanismSleepableModify,
				Summary: "lanes of sleepable fmod_ret programs at the system calls of READ, WRITE and FSYNC",
				Needs:   tracing.SleepNeeds(kernel.CgroupV2, kernel.SleepableFmodRet, kernel.RingBuf),
			},
		},
		Example: `target: {systemdUnit: checkout.service}
fileDelay: {operations: [READ], path: /var/lib/checkout/**, delay: 50ms}
duration: 60s`,
		Validate: validateDelay,
		Plan:     planDelay,
	}
}

func validateDelay(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "fileDelay"}
	validateWhere(&p, spec.GetFileDelay())
	p.Delay(spec.GetFileDelay(), true)
	p.NoFilter(spec, "fileDelay")
	return p.List()
}

// delayPlan is what a fileDelay is planned from.
type delayPlan struct {
	filePlan
	delay tracing.Delay
}

func planDelay(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	spec := req.Spec.GetFileDelay()
	p := &delayPlan{filePlan: filePlan{req: req, operated: spec}}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of fileDelay can't be done: nobody would wake who sleeps; leave it out")
	}
	var err error
	if p.delay, err = tracing.NewDelay(req.Seed, spec); err != nil {
		return nil, err
	}
	if p.failure, err = tracing.NewFailure(req); err != nil {
		return nil, err
	}
	if p.where, err = locate(spec.GetPath(), req.Cgroups); err != nil {
		return nil, err
	}
	asks, _ := p.apart()
	ladder := []string{tracing.MechanismTaskWork, tracing.MechanismSleepableLSM}
	if len(asks) == 0 {
		ladder[1] = tracing.MechanismSleepableModify
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Delay(), ladder,
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	if mechanism == tracing.MechanismSleepableLSM {
		p.left = append(p.left, "an operation may wait with a directory locked that others use, as RENAME and UNLINK do")
		if len(p.called) > 0 {
			mechanism += "+" + tracing.MechanismSleepableModify
		}
	}
	return p.finish(mechanism, programs, p.delay.Describe(mechanism))
}

// apart has the operations in two: who waits where the kernel asks its security modules,
// and who can't, so that it is the call that waits.
func (p *delayPlan) apart() (asks, calling []v1.FileOperation) {
	for _, operation := range p.GetOperations() {
		if calls[operation] == nil {
			asks = append(asks, operation)
		} else {
			calling = append(calling, operation)
		}
	}
	return asks, calling
}

// programs are those that a mechanism puts in place. The error is ErrUnavailable where
// the kernel does not take one.
func (p *delayPlan) programs(ctx context.Context, mechanism string) (*tracing.Fault, error) {
	list, err := p.hooks(ctx, mechanism)
	if err != nil {
		return nil, err
	}
	f, err := p.fault(files.LoadDelays, list, "fileDelay", mechanism)
	if err != nil {
		return nil, err
	}
	return f, p.delay.Configure(f, p.keep)
}

func (p *delayPlan) hooks(ctx context.Context, mechanism string) (list []tracing.Hook, err error) {
	asks, calling := p.apart()
	wait := tracing.Hook.Slept
	switch {
	case mechanism == tracing.MechanismTaskWork:
		// Nothing has to be able to wait where the kernel asks.
		asks, calling = p.GetOperations(), nil
		if slices.Contains(asks, v1.FileOperation_FSYNC) {
			calling = []v1.FileOperation{v1.FileOperation_FSYNC}
		}
		wait = tracing.Hook.SleptAtReturn
	case mechanism == tracing.MechanismSleepableModify && len(asks) > 0:
		return nil, errors.New("mechanism sleepable_fmod_ret is for READ, WRITE and FSYNC; leave mechanism out, and it stands beside another one")
	case mechanism == tracing.MechanismSleepableLSM && len(asks) == 0:
		return nil, fmt.Errorf("mechanism sleepable_lsm can't do %s; leave mechanism out", names(calling))
	case len(calling) > 0:
		if err := p.needs(ctx, Delay(), tracing.MechanismSleepableModify, "operation "+names(calling)); err != nil {
			return nil, err
		}
	}
	p.called = calling
	if list, err = tracing.SleptAtSecurityHooks(mechanism, p.asked(asks)); err != nil {
		return nil, err
	}
	called, err := atCalls(calling, func(h tracing.Hook, shape tracing.Shape, config tracing.HookConfig) []tracing.Hook {
		return wait(h.Probed(shape, config))
	})
	return append(list, called...), err
}

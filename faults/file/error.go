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

// The mechanisms.
const (
	mechanismLSM    = tracing.MechanismLSM
	mechanismModify = tracing.MechanismModify
	// mechanismCalls is for FSYNC, and stands beside one of the others.
	mechanismCalls = "fmod_ret"
)

// Error is fileError: operations on files that fail and are not carried out.
func Error() fault.Kind {
	return fault.Kind{
		Name:    "fileError",
		Summary: "open, read, write, fsync, mmap, stat, unlink, rename and others fail with an errno, by path",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismLSM,
				Summary: "programs that the kernel asks as a security module; not for FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSM, kernel.RingBuf},
			},
			{
				Name:    mechanismModify,
				Summary: "fmod_ret on the functions that ask all security modules; not for FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity, kernel.RingBuf},
			},
			{
				Name:    mechanismCalls,
				Summary: "fmod_ret on fsync and fdatasync, for FSYNC",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSyscall, kernel.RingBuf},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
fileError: {operations: [OPEN, WRITE], path: /var/lib/checkout/**, errno: EIO}
rate: {probability: 0.1}
duration: 60s`,
		Validate: validateError,
		Plan:     planError,
	}
}

func validateError(spec *v1.Fault) []fault.Problem {
	file := spec.GetFileError()
	p := check.Problems{Prefix: "fileError"}
	validateWhere(&p, file)
	switch {
	case len(file.GetErrnos()) == 0:
		p.Errno("errno", file.GetErrno())
	case file.GetErrno() != "":
		p.Add("errnos", "errno and errnos exclude each other; give one")
	}
	for i, one := range file.GetErrnos() {
		p.Errno(fmt.Sprintf("errnos[%d].errno", i), one.GetErrno())
		if one.GetWeight() == 0 {
			p.Add(fmt.Sprintf("errnos[%d].weight", i), "is missing or 0; give how often it is chosen beside the others, at least 1")
		}
	}
	if n := len(file.GetErrnos()); n > tracing.ErrorsMax {
		p.Add("errnos", "are %d; at most %d are allowed", n, tracing.ErrorsMax)
	}
	p.NoFilter(spec, "fileError")
	return p.List()
}

// errorPlan is what a fileError is planned from.
type errorPlan struct {
	filePlan
	spec *v1.FileError
}

// syncs tells whether FSYNC is among the operations, for which no hook is asked.
func (p *errorPlan) syncs() bool {
	return slices.Contains(p.spec.GetOperations(), v1.FileOperation_FSYNC)
}

func (p *errorPlan) onlySyncs() bool { return p.syncs() && len(p.spec.GetOperations()) == 1 }

func (p *errorPlan) ladder() []string {
	if p.onlySyncs() {
		return []string{mechanismCalls}
	}
	return []string{mechanismLSM, mechanismModify}
}

func planError(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	spec := req.Spec.GetFileError()
	p := &errorPlan{filePlan{req: req, operated: spec}, spec}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of fileError is %w; leave it out", fault.ErrNotBuilt)
	}
	errnos := []tracing.Errno{{Name: spec.GetErrno(), Weight: 1}}
	if len(spec.GetErrnos()) > 0 {
		errnos = nil
		for _, e := range spec.GetErrnos() {
			errnos = append(errnos, tracing.Errno{Name: e.GetErrno(), Weight: e.GetWeight()})
		}
	}
	var err error
	if p.failure, err = tracing.NewFailure(req, errnos...); err != nil {
		return nil, err
	}
	if p.where, err = locate(spec.GetPath(), req.Cgroups); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), p.ladder(),
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	if p.syncs() {
		p.called = []v1.FileOperation{v1.FileOperation_FSYNC}
	}
	if p.syncs() && mechanism != mechanismCalls {
		mechanism += "+" + mechanismCalls
	}
	return p.finish(mechanism, programs, "fail with "+p.errno())
}

// programs are those that a mechanism puts in place. The error is ErrUnavailable where
// the kernel does not take one.
func (p *errorPlan) programs(ctx context.Context, mechanism string) (*tracing.Fault, error) {
	load := files.LoadObjects
	if !p.req.Prober.Probe(ctx, kernel.AtomicFetch).OK() {
		load = files.LoadOldObjects
	}
	list, err := p.hooks(ctx, mechanism)
	if err != nil {
		return nil, err
	}
	return p.fault(load, list, "fileError", mechanism)
}

// hooks are those of the operations.
func (p *errorPlan) hooks(ctx context.Context, mechanism string) ([]tracing.Hook, error) {
	switch {
	case mechanism == mechanismCalls && !p.onlySyncs():
		return nil, errors.New("mechanism fmod_ret is for FSYNC alone; leave mechanism out, and it stands beside another one")
	case mechanism != mechanismCalls && p.onlySyncs():
		return nil, fmt.Errorf("mechanism %s can't do FSYNC, for which no hook is asked; leave mechanism out", mechanism)
	}
	list, err := tracing.AtSecurityHooks(mechanism, p.asked(p.spec.GetOperations()))
	if err != nil || !p.syncs() {
		return list, err
	}
	if err := p.needs(ctx, Error(), mechanismCalls, "operation FSYNC"); err != nil {
		return nil, err
	}
	calls, err := atCalls([]v1.FileOperation{v1.FileOperation_FSYNC}, tracing.Hook.Modified)
	return append(list, calls...), err
}

// errno says which: "EIO (3) or ENOSPC (1)".
func (p *errorPlan) errno() string {
	errno := p.spec.GetErrno()
	for i, e := range p.spec.GetErrnos() {
		if i > 0 {
			errno += " or "
		}
		errno += fmt.Sprintf("%s (%d)", e.GetErrno(), e.GetWeight())
	}
	return errno
}

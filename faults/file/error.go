package file

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/files"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/syscall"
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
	req     fault.Request
	spec    *v1.FileError
	where   *where
	failure tracing.Failure
	// warnings are about what is left out.
	warnings []string
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
	p := &errorPlan{req: req, spec: req.Spec.GetFileError()}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of fileError is %w; leave it out", fault.ErrNotBuilt)
	}
	errnos := []tracing.Errno{{Name: p.spec.GetErrno(), Weight: 1}}
	if len(p.spec.GetErrnos()) > 0 {
		errnos = nil
		for _, e := range p.spec.GetErrnos() {
			errnos = append(errnos, tracing.Errno{Name: e.GetErrno(), Weight: e.GetWeight()})
		}
	}
	var err error
	if p.failure, err = tracing.NewFailure(req, errnos...); err != nil {
		return nil, err
	}
	if p.where, err = locate(p.spec.GetPath(), req.Cgroups); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), p.ladder(),
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	if p.syncs() && mechanism != mechanismCalls {
		mechanism += "+" + mechanismCalls
	}
	// What can't be told apart is refused here and not when it is injected.
	if _, err := p.where.anchors(req.Cgroups); err != nil {
		return nil, err
	}
	unseen, err := p.unseen()
	if err != nil {
		return nil, err
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(),
		Changes:   programs.Changes(mechanism),
		Warnings:  append(p.warnings, unseen...),
		Inject:    programs.Inject,
	}, nil
}

// unseen warns of what processes ask of an io_uring and no hook sees.
func (p *errorPlan) unseen() (warnings []string, err error) {
	if !p.syncs() {
		return nil, nil
	}
	users, err := tracing.RingUsers(p.req.Cgroups)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("process %s has an io_uring: what it syncs there is not hit", strings.Join(users, ", "))}, nil
}

// programs are those that a mechanism puts in place. The error is ErrUnavailable where
// the kernel does not take one.
func (p *errorPlan) programs(ctx context.Context, mechanism string) (*tracing.Fault, error) {
	load := files.LoadObjects
	if !p.req.Prober.Probe(ctx, kernel.AtomicFetch).OK() {
		load = files.LoadOldObjects
	}
	spec, err := load()
	if err != nil {
		return nil, err
	}
	layout, err := readLayout()
	if err != nil {
		return nil, err
	}
	config := fileConfig{Layout: layout, Pattern: p.where.matcher.pattern}
	if err := spec.Variables[files.ObjectsVarFlFileConfig].Set(config); err != nil {
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	f := &tracing.Fault{
		Spec: spec, Cgroups: p.req.Cgroups, Failure: p.failure, Keep: p.keep, Decode: events.Decoder((*fileEvent).event),
	}
	if f.Hooks, err = p.hooks(mechanism); err != nil {
		return nil, err
	}
	if p.syncs() {
		calls, err := p.calls(ctx)
		if err != nil {
			return nil, err
		}
		f.Hooks = append(f.Hooks, calls...)
	}
	p.warnings, err = f.Prune("fileError", mechanism)
	return f, err
}

// calls are the hooks of FSYNC: the system calls themselves.
func (p *errorPlan) calls(ctx context.Context) (list []tracing.Hook, err error) {
	kind := Error()
	i := slices.IndexFunc(kind.Mechanisms, func(m fault.Mechanism) bool { return m.Name == mechanismCalls })
	if answer := kind.Mechanisms[i].Probe(ctx, p.req.Prober); !answer.OK() {
		return nil, fmt.Errorf("operation FSYNC of fileError is %w: %s (%s)", fault.ErrUnavailable, answer.Reason, answer.Remedy)
	}
	functions, err := syscall.Functions("fsync", "fdatasync")
	if err != nil {
		return nil, err
	}
	for _, fn := range functions {
		shape := ofDescriptor
		if fn.Is32 {
			shape = ofDescriptor32
		}
		hook := tracing.Hook{Function: fn.Name, ID: fn.ID, Name: fn.Call, Only32: fn.Is32}
		list = append(list, hook.Modified(shape, tracing.HookConfig{Operation: uint32(v1.FileOperation_FSYNC)})...)
	}
	return list, nil
}

// fileConfig is struct fl_file_config.
type fileConfig struct {
	Layout  layout
	Pattern pattern
}

// hooks are those of the operations.
func (p *errorPlan) hooks(mechanism string) (list []tracing.Hook, err error) {
	switch {
	case mechanism == mechanismCalls && !p.onlySyncs():
		return nil, errors.New("mechanism fmod_ret is for FSYNC alone; leave mechanism out, and it stands beside another one")
	case mechanism != mechanismCalls && p.onlySyncs():
		return nil, fmt.Errorf("mechanism %s can't do FSYNC, for which no hook is asked; leave mechanism out", mechanism)
	}
	var wanted []tracing.SecurityHook
	for _, operation := range p.spec.GetOperations() {
		for _, hook := range hooks[operation] {
			hook.Operation, hook.What = uint32(operation), operation.String()
			wanted = append(wanted, hook)
		}
	}
	return tracing.AtSecurityHooks(mechanism, wanted)
}

// keep tells the programs what names are matched with, and which directories lead to
// files of the pattern: mounts and views come and go.
func (p *errorPlan) keep(_ context.Context, maps map[string]*ebpf.Map) error {
	if err := maps[files.ObjectsMapFlCharacters].Put(uint32(0), p.where.matcher.characters); err != nil {
		return fmt.Errorf("writing the pattern: %w", err)
	}
	wanted, err := p.where.anchors(p.req.Cgroups)
	if err != nil {
		return err
	}
	anchors := maps[files.ObjectsMapFlAnchors]
	var at place
	var set uint32
	var gone []place
	entries := anchors.Iterate()
	for entries.Next(&at, &set) {
		if wanted[at] == 0 {
			gone = append(gone, at)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("listing directories: %w", err)
	}
	for at, set := range wanted {
		if err := anchors.Put(at, set); err != nil {
			return fmt.Errorf("writing a directory: %w", err)
		}
	}
	for _, at := range gone {
		if err := anchors.Delete(at); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("removing a directory: %w", err)
		}
	}
	return nil
}

func (p *errorPlan) summary() string {
	var operations []string
	for _, o := range p.spec.GetOperations() {
		operations = append(operations, o.String())
	}
	errno := p.spec.GetErrno()
	for i, e := range p.spec.GetErrnos() {
		if i > 0 {
			errno += " or "
		}
		errno += fmt.Sprintf("%s (%d)", e.GetErrno(), e.GetWeight())
	}
	text := fmt.Sprintf("%s of %s fail with %s", strings.Join(operations, ", "), p.spec.GetPath(), errno)
	if p.req.Observe {
		return "only count: " + text
	}
	return text
}

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
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/faults/tracing"
)

// operated are the fields of a fault that say which operations are meant.
type operated interface {
	GetOperations() []v1.FileOperation
	GetPath() string
}

// filePlan is what faults of files are planned from.
type filePlan struct {
	operated
	req     fault.Request
	where   *where
	failure tracing.Failure
	// left are warnings about what a mechanism leaves out.
	left []string
	// called are the operations that are met at system calls, and not where the kernel
	// asks its security modules.
	called []v1.FileOperation
}

// fault has programs at hooks, without those that the kernel does not take and that can be
// done without.
func (p *filePlan) fault(load func() (*ebpf.CollectionSpec, error), list []tracing.Hook, kind, mechanism string) (*tracing.Fault, error) {
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
		Spec: spec, Hooks: list, Cgroups: p.req.Cgroups, Failure: p.failure, Keep: p.keep, Decode: events.Decoder((*fileEvent).event),
	}
	p.left, err = f.Prune(kind, mechanism)
	return f, err
}

// fileConfig is struct fl_file_config.
type fileConfig struct {
	Layout  layout
	Pattern pattern
}

// asked are the hooks of those operations that have one.
func (p *filePlan) asked(operations []v1.FileOperation) (wanted []tracing.SecurityHook) {
	for _, operation := range operations {
		for _, hook := range hooks[operation] {
			hook.Operation, hook.What = uint32(operation), operation.String()
			wanted = append(wanted, hook)
		}
	}
	return wanted
}

// needs returns ErrUnavailable where the kernel lacks what a mechanism of the kind needs.
func (p *filePlan) needs(ctx context.Context, kind fault.Kind, mechanism, what string) error {
	i := slices.IndexFunc(kind.Mechanisms, func(m fault.Mechanism) bool { return m.Name == mechanism })
	if answer := kind.Mechanisms[i].Probe(ctx, p.req.Prober); !answer.OK() {
		return fmt.Errorf("%s of %s is %w: %s (%s)", what, kind.Name, fault.ErrUnavailable, answer.Reason, answer.Remedy)
	}
	return nil
}

// atCalls are the hooks of operations at system calls that have a descriptor of the file
// as their first argument. at makes them of a function.
func atCalls(operations []v1.FileOperation, at func(tracing.Hook, tracing.Shape, tracing.HookConfig) []tracing.Hook) (list []tracing.Hook, err error) {
	for _, operation := range operations {
		functions, err := syscall.Functions(calls[operation]...)
		if err != nil {
			return nil, err
		}
		for _, fn := range functions {
			shape, hook := ofDescriptor, tracing.Hook{Function: fn.Name, ID: fn.ID, Name: fn.Call, Only32: fn.Is32}
			if fn.Is32 {
				shape, hook.Spare = ofDescriptor32, tracing.Calls32(fn.Name)
			}
			list = append(list, at(hook, shape, tracing.HookConfig{Operation: uint32(operation)})...)
		}
	}
	return list, nil
}

// finish adds what is said. what becomes of the operations is a predicate.
func (p *filePlan) finish(mechanism string, programs *tracing.Fault, what string) (*fault.Plan, error) {
	// What can't be told apart is refused here and not when it is injected.
	if _, err := p.where.anchors(p.req.Cgroups); err != nil {
		return nil, err
	}
	unseen, err := p.unseen()
	if err != nil {
		return nil, err
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(what),
		Changes:   programs.Changes(mechanism),
		Warnings:  append(p.left, unseen...),
		Inject:    programs.Inject,
	}, nil
}

// unseen warns of what processes ask of an io_uring and no hook sees.
func (p *filePlan) unseen() (warnings []string, err error) {
	if len(p.called) == 0 {
		return nil, nil
	}
	users, err := tracing.RingUsers(p.req.Cgroups)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("process %s has an io_uring: its %s there is not hit", strings.Join(users, ", "), names(p.called))}, nil
}

// keep tells the programs what names are matched with, and which directories lead to
// files of the pattern: mounts and views come and go.
func (p *filePlan) keep(_ context.Context, maps map[string]*ebpf.Map) error {
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

func (p *filePlan) summary(what string) string {
	text := fmt.Sprintf("%s of %s %s", names(p.GetOperations()), p.GetPath(), what)
	if p.req.Observe {
		return "only count: " + text
	}
	return text
}

func names(operations []v1.FileOperation) string {
	var list []string
	for _, o := range operations {
		list = append(list, o.String())
	}
	return strings.Join(list, ", ")
}

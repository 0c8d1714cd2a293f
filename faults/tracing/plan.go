package tracing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Choose goes down a ladder of mechanisms until the kernel has one and takes all its
// programs. Those are made by programs, which returns ErrUnavailable for a mechanism
// that won't do. The error says of each what is missing.
func Choose(ctx context.Context, req fault.Request, kind fault.Kind, ladder []string,
	programs func(mechanism string) (*Fault, error),
) (string, *Fault, error) {
	var refusals []error
	for len(ladder) > 0 {
		mechanism, err := fault.Choose(ctx, req, kind, ladder...)
		if err != nil {
			return "", nil, errors.Join(append(refusals, err)...)
		}
		f, err := programs(mechanism)
		if err == nil {
			return mechanism, f, nil
		}
		if !errors.Is(err, fault.ErrUnavailable) {
			return "", nil, err
		}
		refusals = append(refusals, err)
		ladder = ladder[slices.Index(ladder, mechanism)+1:]
		if req.Spec.GetMechanism() == mechanism {
			break
		}
	}
	return "", nil, errors.Join(refusals...)
}

// Prune tries the programs and takes out spare ones that the kernel does not let a
// mechanism have; it returns warnings about them. If it refuses others, the error is
// ErrUnavailable, and says which functions they are for.
func (f *Fault) Prune(kind, mechanism string) (left []string, err error) {
	refused, err := f.Try()
	if err != nil {
		return nil, err
	}
	var texts []string
	told, spared := map[string]bool{}, map[string]bool{}
	for _, hook := range f.Hooks {
		why := refused[hook.Function]
		if why == nil || told[hook.Function] {
			continue
		}
		told[hook.Function] = true
		answer := kernel.AnswerOf(why)
		if hook.Spare != "" {
			left = append(left, "not hit: "+hook.Spare+": "+answer.Reason)
			spared[hook.Spare] = true
			continue
		}
		text := hook.Function + ": " + answer.Reason
		if answer.Remedy != "" {
			text += " (" + answer.Remedy + ")"
		}
		texts = append(texts, text)
	}
	f.Hooks = slices.DeleteFunc(f.Hooks, func(hook Hook) bool { return spared[hook.Spare] })
	if len(texts) > 0 {
		return nil, fmt.Errorf("%s is %w: %s: %s", kind, fault.ErrUnavailable, mechanism, strings.Join(texts, "; "))
	}
	return left, nil
}

const undoByKernel = "kernel (the link ends with the process)"

// Changes lists what is put in place.
func (f *Fault) Changes(mechanism string) (list []*v1.Change) {
	for _, hook := range f.Hooks {
		if hook.ofCgroups(f.Spec) {
			for _, cgroup := range f.Cgroups {
				list = append(list, &v1.Change{
					Object: "cgroup " + cgroup.Path,
					Action: fmt.Sprintf("attach program %s to %s", hook.Program, hook.Function),
					Undo:   undoByKernel,
				})
			}
			continue
		}
		list = append(list, &v1.Change{
			Object: "function " + hook.Function,
			Action: fmt.Sprintf("attach program %s (%s)", hook.Program, mechanism),
			Undo:   undoByKernel,
		})
	}
	return list
}

package tracing

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
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

// Changes lists what is put in place.
func (f *Fault) Changes(mechanism string) (list []*v1.Change) {
	for _, hook := range f.Hooks {
		list = append(list, &v1.Change{
			Object: "function " + hook.Function,
			Action: fmt.Sprintf("attach program %s (%s)", hook.Program, mechanism),
			Undo:   "kernel (the link ends with the process)",
		})
	}
	return list
}

package tracing

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
)

// ErrorsMax is how many errnos a fault can choose from: ERRORS_MAX of
// bpf/include/failure.h.
const ErrorsMax = 8

// Failure is struct fl_failure.
type Failure struct {
	Dice       dice.Config
	Target     Target
	Errors     [ErrorsMax]failureError
	ErrorsUsed uint32
	Observe    uint32
}

// failureError is struct fl_error.
type failureError struct {
	Below uint64
	Error uint32
	_     uint32
}

// Errno is one of those that a fault chooses from, by its name; Weight says how
// often, beside the others, at least 1.
type Errno struct {
	Name   string
	Weight uint32
}

// NewFailure describes what a request asks for. The error says what of it this
// kernel can't take.
func NewFailure(req fault.Request, errnos ...Errno) (Failure, error) {
	f := Failure{Dice: dice.New(req.Seed, req.Spec), ErrorsUsed: uint32(len(errnos))}
	if len(errnos) > ErrorsMax {
		return f, fmt.Errorf("%d errnos are given; at most %d are supported", len(errnos), ErrorsMax)
	}
	var total, sum uint64
	for _, e := range errnos {
		total += uint64(e.Weight)
	}
	for i, e := range errnos {
		number, err := check.ErrnoByName(e.Name)
		if err != nil {
			return f, err
		}
		sum += uint64(e.Weight)
		f.Errors[i] = failureError{Below: sum * dice.Always / total, Error: uint32(number)}
	}
	if req.Observe {
		f.Observe = 1
	}
	var err error
	f.Target, err = TargetOf(req.Cgroups)
	return f, err
}

// Target is struct fl_target, which tells the programs how to find their cgroups.
type Target struct {
	Levels  uint32
	Cgroups uint32
}

// cgroupsMax is CGROUPS_MAX of bpf/include/task.h.
const cgroupsMax = 32

// TargetOf describes cgroups. The error says what of them this kernel can't take.
func TargetOf(cgroups []fault.Cgroup) (Target, error) {
	if err := fault.CheckTargets(cgroups); err != nil {
		return Target{}, err
	}
	var t Target
	for _, cgroup := range cgroups {
		t.Levels |= 1 << cgroup.Level
	}
	err := features.HaveProgramHelper(ebpf.Kprobe, asm.FnGetCurrentAncestorCgroupId)
	if err == nil {
		return t, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return Target{}, fmt.Errorf("asking how the kernel tells a task's cgroup: %w", err)
	}
	if len(cgroups) > cgroupsMax {
		return Target{}, fmt.Errorf("the target has %d cgroups; at most %d are supported on kernels before 5.16", len(cgroups), cgroupsMax)
	}
	return Target{Cgroups: uint32(len(cgroups))}, nil
}

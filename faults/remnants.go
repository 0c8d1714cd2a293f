package faults

import (
	"context"
	"errors"
	"slices"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
)

// Remnants finds what is left of faults by its mark alone, without any journal:
// directories of pins, cls_bpf filters and clsacts, ifb devices with what leads
// to them, root qdiscs, and cgroups of probes below cgroupRoot ("" without
// cgroup v2). What a live process owns is not among them; what nobody owns is,
// also while its lease runs. The undos are to be run in their order. What was
// found is returned beside an error.
func Remnants(ctx context.Context, cgroupRoot string) ([]fault.Undo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pins, err := pin.Remnants()
	filters, filtersErr := network.Remnants()
	devices, devicesErr := ifb.Remnants()
	qdiscs, qdiscsErr := qdisc.Remnants()
	cgroups, cgroupsErr := probeCgroups(cgroupRoot)
	return slices.Concat(pins, filters, devices, qdiscs, cgroups), errors.Join(err, filtersErr, devicesErr, qdiscsErr, cgroupsErr)
}

func probeCgroups(root string) (undos []fault.Undo, err error) {
	if root == "" {
		return nil, nil
	}
	stale, err := kernel.StaleCgroups(root)
	for _, dir := range stale {
		undos = append(undos, ProbeCgroup{dir})
	}
	return undos, err
}

// ProbeCgroup undoes the cgroup of a process that was killed while it probed
// what the kernel can do. It needs no journal: nothing was ever in it.
type ProbeCgroup struct{ Path string }

// Kind implements fault.Undo.
func (ProbeCgroup) Kind() string { return "probe-cgroup" }

// Describe implements fault.Undo.
func (c ProbeCgroup) Describe() string { return "remove cgroup " + c.Path + " of a probe" }

// Survives implements fault.Undo.
func (ProbeCgroup) Survives() bool { return false }

// Undo implements fault.Undo.
func (c ProbeCgroup) Undo(context.Context) error { return kernel.RemoveStaleCgroup(c.Path) }

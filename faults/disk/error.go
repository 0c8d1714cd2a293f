package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/disk"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

const (
	mechanismBio = "should_fail_bio"
	// applicationErrno is what becomes of any error of should_fail_bio.
	applicationErrno = "EIO"
)

// Error is diskError: block I/O that fails and is not carried out.
func Error() fault.Kind {
	return fault.Kind{
		Name:    "diskError",
		Summary: "block I/O of the cgroup fails with EIO, by device or mount point, operation and sectors",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{{
			Name:    mechanismBio,
			Summary: "fmod_ret on should_fail_bio, matched by the cgroup of the request",
			Needs:   []kernel.Capability{kernel.CgroupV2, kernel.ShouldFailBio, kernel.RingBuf, kernel.AtomicFetch},
		}},
		Example: `target: {systemdUnit: postgresql.service}
diskError: {operations: [WRITE], mountPoint: /var/lib/postgresql}
rate: {every: 1000}
duration: 30s`,
		Validate: validateError,
		Plan:     planError,
	}
}

func validateError(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "diskError"}
	validateWhere(&p, spec.GetDiskError())
	if errno := spec.GetDiskError().GetErrno(); errno != "" && errno != applicationErrno {
		p.Add("errno", "%q can't be had: the kernel makes EIO of whatever a disk fails with; leave it out, or use fileError for others", errno)
	}
	p.NoFilter(spec, "diskError")
	return p.List()
}

func planError(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of diskError is %w; leave it out", fault.ErrNotBuilt)
	}
	at := req.Spec.GetDiskError()
	device, err := findDevice(at)
	if err != nil {
		return nil, err
	}
	failure, err := tracing.NewFailure(req, tracing.Errno{Name: applicationErrno, Weight: 1})
	if err != nil {
		return nil, err
	}
	byTask, warnings, err := charged(req.Cgroups)
	if err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), []string{mechanismBio}, func(string) (*tracing.Fault, error) {
		return programs(req, failure, at, device, byTask)
	})
	if err != nil {
		return nil, err
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   summary(req, at, device, "fail with "+applicationErrno),
		Changes:   programs.Changes(mechanism),
		Warnings:  warnings,
		Inject:    programs.Inject,
	}, nil
}

// charged tells whether the kernel can't say of I/O that it is the target's, so that it
// has to be known by the task that asks for it; and what is not hit then.
func charged(cgroups []fault.Cgroup) (byTask bool, warnings []string, err error) {
	for _, cgroup := range cgroups {
		enabled, err := controllers(cgroup)
		if err != nil {
			return false, nil, err
		}
		switch {
		case !slices.Contains(enabled, "io"):
			byTask = true
			warnings = append(warnings, fmt.Sprintf("cgroup %s has no io controller: I/O is hit that its processes ask for themselves, and not what is written for them later; enable it with: echo +io > cgroup.subtree_control of the cgroup above", cgroup.Path))
		case !slices.Contains(enabled, "memory"):
			warnings = append(warnings, fmt.Sprintf("cgroup %s has no memory controller, without which the kernel does not know whose pages it writes later: that is not hit", cgroup.Path))
		}
	}
	return byTask, warnings, nil
}

// controllers are those that a cgroup has; one that is gone has none that it lacks.
func controllers(cgroup fault.Cgroup) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(cgroup.Path, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) {
		return []string{"io", "memory"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the controllers of cgroup %s: %w", cgroup.Path, err)
	}
	return strings.Fields(string(text)), nil
}

// rangesMax is RANGES_MAX of bpf/disk/bio.h.
const rangesMax = 16

// config is struct fl_disk_config.
type config struct {
	Layout     layout
	Device     uint32
	Operations uint32
	_          uint32
	Ranges     [rangesMax]sectors
	RangesUsed uint32
	ByTask     uint32
}

// sectors is struct fl_range.
type sectors struct{ First, Last uint64 }

func programs(req fault.Request, failure tracing.Failure, at where, on device, byTask bool) (*tracing.Fault, error) {
	spec, err := disk.LoadObjects()
	if err != nil {
		return nil, err
	}
	c := config{Device: on.number(), RangesUsed: uint32(len(at.GetSectors()))}
	if c.Layout, err = readLayout(); err != nil {
		return nil, err
	}
	for _, operation := range at.GetOperations() {
		c.Operations |= 1 << operation
	}
	for i, r := range at.GetSectors() {
		c.Ranges[i] = sectors{r.GetFirst(), r.GetLast()}
	}
	if byTask {
		c.ByTask = 1
	}
	if err := spec.Variables[disk.ObjectsVarFlDiskConfig].Set(c); err != nil {
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	ids, err := kernel.FunctionIDs([]string{mechanismBio})
	if err != nil {
		return nil, err
	}
	f := &tracing.Fault{
		Spec: spec, Cgroups: req.Cgroups, Failure: failure, Decode: events.Decoder((*diskEvent).event),
		Hooks: []tracing.Hook{{Function: mechanismBio, ID: ids[mechanismBio], Program: disk.ObjectsProgFlFailBio, Name: "fail_bio", Alone: true}},
	}
	_, err = f.Prune("diskError", mechanismBio)
	return f, err
}

func summary(req fault.Request, at where, on device, what string) string {
	var operations []string
	for _, o := range at.GetOperations() {
		operations = append(operations, o.String())
	}
	text := strings.Join(operations, ", ") + " of " + on.String()
	for i, r := range at.GetSectors() {
		text += map[bool]string{true: ", sectors ", false: " and "}[i == 0] + fmt.Sprintf("%d to %d", r.GetFirst(), r.GetLast())
	}
	text += " " + what
	if req.Observe {
		return "only count: " + text
	}
	return text
}

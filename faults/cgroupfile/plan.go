package cgroupfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

// ErrTighter is for Fault.Value: the file holds a limit as tight as the
// fault's, or tighter.
var ErrTighter = errors.New("as tight or tighter already")

// Fault is a fault that writes one file of each of its cgroups.
type Fault struct {
	Kind fault.Kind
	// File is one of the constants of this package.
	File string
	// Controller is what the file belongs to; "" for cgroup.freeze, which
	// every cgroup has.
	Controller string
	// Summary says in plain words what the fault does.
	Summary string
	// Value returns what is to be written where the file holds before, as the
	// kernel will print it. It never loosens: its error is ErrTighter, or what
	// else forbids to write (Refuse).
	Value func(d *Dir, before string) (string, error)
	// Warn says what may keep the fault from having an effect; it may be nil.
	Warn func(d *Dir, value string) []string
	// Count returns what the kernel has counted in the cgroup so far, by an id
	// of what it is counted for (a cgroup, a process). The differences to what
	// it was at the start are added up.
	Count func(c fault.Cgroup, d *Dir) (map[uint64]fault.Counters, error)
	// Settle waits until what was written has happened, or for the time
	// limit. It may be nil.
	Settle func(c fault.Cgroup, d *Dir, limit time.Time) error
}

// refusal is a fault.ErrUnavailable that does not need to say so.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == fault.ErrUnavailable }

// Refuse returns an error that matches fault.ErrUnavailable.
func Refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// Validate reports the fields of every fault that have no meaning for a value
// in a cgroup's file, or are not built for it yet.
func Validate(spec *v1.Fault, kind string) []fault.Problem {
	var p check.Problems
	p.NoFilter(spec, kind)
	p.NoRate(spec, kind)
	if spec.GetRampUp() != nil {
		p.Add("rampUp", "of %s is %s; leave it out", kind, fault.ErrNotBuilt)
	}
	if spec.GetPulse() != nil {
		p.Add("pulse", "of %s is %s; leave it out", kind, fault.ErrNotBuilt)
	}
	if spec.GetObserve() {
		p.Add("observe", "%s", cannotObserve(kind))
	}
	if spec.GetPersistence() == v1.Fault_PINNED {
		p.Add("persistence", "PINNED has no meaning for %s: a value in a cgroup's file outlives the process in any case, and the guard process ends it; leave it out", kind)
	}
	return p.List()
}

func cannotObserve(kind string) string {
	return kind + " can't be observed: what a limit would hit shows only when it is set; leave observe out"
}

// Plan looks at the cgroups and plans the fault; mechanism is the one that was
// chosen.
func (f *Fault) Plan(req fault.Request, mechanism string) (*fault.Plan, error) {
	if req.Observe {
		return nil, Refuse("%s", cannotObserve(f.Kind.Name))
	}
	plan := &fault.Plan{
		Mechanism: mechanism,
		Summary:   f.Summary,
		Claims:    []fault.Claim{Files{File: f.File, Cgroups: req.Cgroups}},
		Inject: func(ctx context.Context, rec fault.Recorder) (fault.Injection, error) {
			return f.inject(ctx, req, rec)
		},
	}
	for _, cgroup := range req.Cgroups {
		setting, warnings, err := f.setting(cgroup, req.CgroupRoot)
		if err != nil {
			return nil, err
		}
		plan.Warnings = append(plan.Warnings, warnings...)
		plan.Changes = append(plan.Changes, &v1.Change{
			Object: "cgroup " + cgroup.Path,
			Action: fmt.Sprintf("write %q to %s, which holds %q", setting.Written, setting.File, setting.Before),
			Undo:   "journal, and the guard process when faultline dies or is frozen",
		})
	}
	return plan, nil
}

// setting reads what a cgroup holds and says what will be written there.
func (f *Fault) setting(c fault.Cgroup, root string) (s Setting, warnings []string, err error) {
	dir, err := Open(c)
	if err != nil {
		return s, nil, err
	}
	defer dir.Close()
	before, err := dir.Read(f.File)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil, f.missing(c, dir, root)
	}
	if err != nil {
		return s, nil, fmt.Errorf("reading a file of cgroup %s: %w", c.Path, err)
	}
	written, err := f.Value(dir, before)
	if errors.Is(err, ErrTighter) {
		return s, nil, Refuse("%s of cgroup %s holds %q, which is as tight as this %s or tighter: nothing would be squeezed", f.File, c.Path, before, f.Kind.Name)
	}
	if err != nil {
		return s, nil, fmt.Errorf("cgroup %s: %w", c.Path, err)
	}
	if f.Warn != nil {
		for _, warning := range f.Warn(dir, written) {
			warnings = append(warnings, fmt.Sprintf("cgroup %s: %s", c.Path, warning))
		}
	}
	return Setting{Cgroup: c, File: f.File, Before: before, Written: written}, append(warnings, f.above(c, root)...), nil
}

// above warns of cgroups above the target that hold a tighter limit.
func (f *Fault) above(c fault.Cgroup, root string) (warnings []string) {
	if f.Controller == "" {
		return nil
	}
	for _, path := range ancestors(c.Path, root) {
		value, err := os.ReadFile(filepath.Join(path, f.File))
		if err != nil {
			continue // the root, or gone
		}
		before := strings.TrimSpace(string(value))
		if _, err := f.Value(nil, before); errors.Is(err, ErrTighter) {
			warnings = append(warnings, fmt.Sprintf("cgroup %s: %s of %s, above it, holds %q, which is as tight or tighter", c.Path, f.File, path, before))
		}
	}
	return warnings
}

// ancestors lists the cgroups above a path, the root of the hierarchy first.
func ancestors(path, root string) (list []string) {
	for path != root && len(path) > len(root) {
		path = filepath.Dir(path)
		list = append(list, path)
	}
	slices.Reverse(list)
	return list
}

// missing says why a cgroup has not got the file, and what would help.
func (f *Fault) missing(c fault.Cgroup, dir *Dir, root string) error {
	if f.Controller == "" {
		return Refuse("cgroup %s has no %s: Linux 5.2 has it", c.Path, f.File)
	}
	var lacking []string
	for _, path := range ancestors(c.Path, root) {
		file := filepath.Join(path, "cgroup.subtree_control")
		enabled, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading the controllers of cgroup %s: %w", path, err)
		}
		if !slices.Contains(strings.Fields(string(enabled)), f.Controller) {
			lacking = append(lacking, file)
		}
	}
	if len(lacking) > 0 {
		return Refuse("cgroup %s has no %s, since the %s controller is not enabled for it: write +%s to %s (for a systemd unit: systemctl set-property --runtime UNIT %s)",
			c.Path, f.File, f.Controller, f.Controller, strings.Join(lacking, ", then to "), accounting[f.Controller])
	}
	if kind, err := dir.Read("cgroup.type"); err == nil && kind == "threaded" {
		return Refuse("cgroup %s has no %s, since it is threaded: choose the domain cgroup above it", c.Path, f.File)
	}
	return Refuse("cgroup %s has no %s, although the %s controller is enabled: the kernel is built without it", c.Path, f.File, f.Controller)
}

// accounting are the settings of systemd.resource-control(5) that enable a
// controller for a unit. CPUAccounting= does not: it needs no controller in v2.
var accounting = map[string]string{
	"cpu":    "CPUWeight=100",
	"memory": "MemoryAccounting=yes",
	"pids":   "TasksAccounting=yes",
}

//go:build linux && privileged

package pressure_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/pressure"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) { env.Main(m, map[string]env.Workload{"eat": eat}) }

func cpu(limit string) *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_CpuPressure{CpuPressure: &v1.CpuPressure{Limit: limit}}}
}

func memory(limit string) *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_MemoryPressure{MemoryPressure: &v1.MemoryPressure{Limit: limit}}}
}

func pids(limit string) *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_PidsPressure{PidsPressure: &v1.PidsPressure{Limit: limit}}}
}

// limits are every kind of limit that a file may hold before, the one that is
// asked for, and what the file holds while it is in force.
var limits = []struct {
	kind                 func() fault.Kind
	controller           kernel.Capability
	file, before, during string
	spec                 *v1.Fault
}{
	{pressure.CPU, kernel.CPUController, "cpu.max", "max 100000", "20000 100000", cpu("20%")},
	{pressure.CPU, kernel.CPUController, "cpu.max", "max 50000", "10000 50000", cpu("20%")},
	{pressure.CPU, kernel.CPUController, "cpu.max", "50000 40000", "8000 40000", cpu("20%")},
	{pressure.CPU, kernel.CPUController, "cpu.max", "80000 20000", "1000 100000", cpu("1%")},
	{pressure.CPU, kernel.CPUController, "cpu.max", "max 30000", "7000 30000", cpu("7000")},
	{pressure.CPU, kernel.CPUController, "cpu.max", "150000 1000000", "1000 1000000", cpu("1000 1000000")},
	{pressure.Memory, kernel.MemoryController, "memory.high", "max", "67108864", memory("64MiB")},
	{pressure.Memory, kernel.MemoryController, "memory.high", "1073741824", "98304", memory("100000")},
	{pressure.Pids, kernel.PidsController, "pids.max", "max", "100", pids("100")},
	{pressure.Pids, kernel.PidsController, "pids.max", "50", "0", pids("0")},
}

func TestEveryLimitIsRestored(t *testing.T) {
	for _, l := range limits {
		t.Run(l.file+" "+l.before, func(t *testing.T) {
			parent := env.Controlled(t, l.controller)
			target, neighbour := env.Child(t, parent, "target"), env.Child(t, parent, "neighbour")
			env.WriteFile(t, target, l.file, l.before)
			holds := func(c fault.Cgroup, want string) {
				t.Helper()
				if got := env.ReadFile(t, c, l.file); got != want {
					t.Errorf("%s of %s holds %q, want %q", l.file, c.Path, got, want)
				}
			}
			holds(target, l.before)
			others := env.ReadFile(t, neighbour, l.file)
			i := env.Inject(t, l.kind(), l.spec, nil, target)
			holds(target, l.during)
			holds(neighbour, others)
			if err := i.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			i.End()
			holds(target, l.before)
			if err := i.Revert(context.Background()); err != nil {
				t.Errorf("reverting once more: %v", err)
			}
			holds(target, l.before)
		})
	}
}

func TestLimitsAreNeverLoosened(t *testing.T) {
	for _, l := range limits {
		t.Run(l.file+" "+l.during, func(t *testing.T) {
			target := env.Child(t, env.Controlled(t, l.controller), "target")
			env.WriteFile(t, target, l.file, l.during)
			_, err := env.Plan(t, l.kind(), l.spec, nil, target)
			if !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "as tight") {
				t.Errorf("planned over %q: %v", l.during, err)
			}
			if got := env.ReadFile(t, target, l.file); got != l.during {
				t.Errorf("planning wrote %q", got)
			}
		})
	}
}

func TestTighterLimitAboveIsAWarning(t *testing.T) {
	parent := env.Controlled(t, kernel.PidsController)
	target := env.Child(t, parent, "target")
	env.WriteFile(t, parent, "pids.max", "60")
	plan, err := env.Plan(t, pressure.Pids(), pids("100"), nil, target)
	if err != nil || len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], parent.Path) {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestMissingControllerSaysWhatWouldHelp(t *testing.T) {
	parent := env.Controlled(t, kernel.CPUController, kernel.MemoryController, kernel.PidsController)
	middle := env.Child(t, env.Child(t, parent, "child"), "middle")
	target := env.Child(t, middle, "target")
	for _, l := range limits {
		_, err := env.Plan(t, l.kind(), l.spec, nil, target)
		name := strings.TrimSuffix(string(l.controller), "-controller")
		want := "write +" + name + " to " + parent.Path + "/child/cgroup.subtree_control, then to " + middle.Path + "/cgroup.subtree_control"
		if !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", l.file, err, want)
		}
	}
}

func TestBurstAboveTheQuotaIsRefused(t *testing.T) {
	target := env.Child(t, env.Controlled(t, kernel.CPUController), "target")
	if _, err := os.Stat(target.Path + "/cpu.max.burst"); err != nil {
		// Linux 5.14 has it; without it there is nothing to refuse.
		env.Inject(t, pressure.CPU(), cpu("20%"), nil, target)
		return
	}
	env.WriteFile(t, target, "cpu.max", "80000 100000")
	env.WriteFile(t, target, "cpu.max.burst", "30000")
	if _, err := env.Plan(t, pressure.CPU(), cpu("20%"), nil, target); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "cpu.max.burst") {
		t.Errorf("error %v", err)
	}
	env.Inject(t, pressure.CPU(), cpu("40%"), nil, target)
}

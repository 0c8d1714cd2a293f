package syscall

import (
	"slices"

	"faultline.dev/faultline/faults/fault"
)

// Calls claims the system calls that a fault decides about.
type Calls struct {
	Cgroups []fault.Cgroup
	Names   []string
	// InTurn: the kernel asks one fault after another, until one answers. A call
	// that was answered is not shown to the others.
	InTurn bool
}

// CallsKind is the name of Calls where claims are stored.
const CallsKind = "calls"

// Kind implements fault.Claim.
func (Calls) Kind() string { return CallsKind }

// Conflict implements fault.Claim.
func (c Calls) Conflict(other fault.Claim) string {
	o, ok := other.(Calls)
	if !ok || c.InTurn && o.InTurn {
		return ""
	}
	i := slices.IndexFunc(c.Names, func(name string) bool { return slices.Contains(o.Names, name) })
	if i < 0 {
		return ""
	}
	if c.InTurn != o.InTurn {
		// A probe that overrides a result misses calls at a function that has a
		// trampoline too, whoever they are of, and may not come off (seen on 6.12).
		return c.Names[i] + ", which the probe of kprobe_override and programs of a trampoline can't share"
	}
	if path := fault.Shared(c.Cgroups, o.Cgroups); path != "" {
		return c.Names[i] + " of " + path
	}
	return ""
}

// Package kernel finds out what the running kernel lets faultline do.
//
// Versions and configurations are never consulted: distributions backport,
// strip and lock down. Each [Capability] is probed by doing the thing itself
// (load, attach, and where that is cheap see that it fires) inside a cgroup and
// a network namespace that belong to the probe alone and are gone when it
// returns. No other process sees a probe: programs that have to be attached to
// a hook of the whole machine act only on one call whose argument is a random
// number that nobody else passes. Kernel modules that a probe loads (sch_fq, ifb
// and so on) stay loaded.
//
// The answer has three values. Only yes and a conclusive no are remembered; an
// unknown (no privileges, out of memory, cancelled) is tried again.
package kernel

import "fmt"

// Availability says whether the kernel has a capability.
type Availability int

// No is the zero value, so that an answer that was never filled in allows
// nothing.
const (
	No Availability = iota
	Yes
	Unknown
)

// String returns "no", "yes" or "unknown".
func (a Availability) String() string {
	switch a {
	case No:
		return "no"
	case Yes:
		return "yes"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("Availability(%d)", int(a))
}

// MarshalText makes an Availability its word in JSON.
func (a Availability) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Availability) UnmarshalText(text []byte) error {
	for _, v := range []Availability{No, Yes, Unknown} {
		if v.String() == string(text) {
			*a = v
			return nil
		}
	}
	return fmt.Errorf("reading an availability: %q is not yes, no or unknown", text)
}

// Answer is the outcome of a probe.
type Answer struct {
	Available Availability `json:"available"`
	// Reason says in plain words why the answer is no or unknown. With yes it is
	// empty, or says what the probe did not see.
	Reason string `json:"reason,omitempty"`
	// Remedy says what would make it yes: the first kernel version that has it,
	// the kernel option, the package or the permission. Empty with yes.
	Remedy string `json:"remedy,omitempty"`
}

// OK reports whether the capability is there.
func (a Answer) OK() bool { return a.Available == Yes }

// Package engine runs experiments: it plans their faults, injects them step by
// step, keeps their leases, asks the probes, takes everything back and proves
// it. Plain data goes in and comes out.
package engine

import (
	"errors"
	"log/slog"
	"net/netip"

	"faultline.dev/faultline/agent/target"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Sentinels of this package.
var (
	// ErrConflict: two faults of a step would decide about the same thing.
	ErrConflict = errors.New("faults conflict")
	// ErrStopped: the stop file exists.
	ErrStopped = errors.New("stopped")
	// ErrRevert: something could not be taken back.
	ErrRevert = errors.New("revert failed")
)

// Engine runs experiments on this machine. Its fields are set once, before the
// first use; after that it is safe for concurrent use.
type Engine struct {
	// StateDir holds the journals of the runs.
	StateDir string
	// CgroupRoot is the mount point of cgroup v2, "" when there is none.
	CgroupRoot string
	Targets    *target.Resolver
	Prober     *kernel.Prober
	Resolver   fault.Resolver
	// Exempt are addresses whose packets are never touched unless a filter
	// names them: those of the control plane. Port 0 stands for all.
	Exempt []netip.AddrPort
	// StopFile ends every run and forbids new ones while it exists; "" for
	// none.
	StopFile string
	// Version is written into results.
	Version string
	Log     *slog.Logger
}

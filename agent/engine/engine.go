// Package engine runs experiments: it plans their faults, injects them step by
// step, keeps their leases, asks the probes, takes everything back and proves
// it. Plain data goes in and comes out.
package engine

import (
	"errors"
	"log/slog"
	"net/netip"
	"os/exec"
	"time"

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
	// ErrBlocked: something of an earlier run could not be taken back, and
	// nothing is injected until it is.
	ErrBlocked = errors.New("an earlier run left something behind")
	// ErrBusy: another run acts on the same thing.
	ErrBusy = errors.New("another run is in the way")
	// ErrLease: the document asks for a longer lease than this machine allows.
	ErrLease = errors.New("lease is too long")
	// ErrNotResumable: a run can't be taken over; what it had pinned was taken
	// back.
	ErrNotResumable = errors.New("run can't be resumed")
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
	// MaxLease is the longest lease that this machine allows; 0 for that of
	// the documents.
	MaxLease time.Duration
	// Guard makes the command of a process that calls guard.Serve for a run
	// of this process, and lingers when the run may be taken over. It is
	// started before the first thing is touched that would outlive this
	// process; without it such things are refused.
	Guard func(runID string, linger bool) *exec.Cmd
	// Version is written into results.
	Version string
	Log     *slog.Logger
}

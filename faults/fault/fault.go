// Package fault holds the plain types that the catalogue, the fault families
// and the engine share. It decides nothing.
package fault

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/kernel"
)

// Scope is what a fault can be confined to.
type Scope string

// The scopes, narrowest first.
const (
	ScopeCgroup Scope = "cgroup"
	ScopeNetNS  Scope = "netns"
	ScopeDevice Scope = "device"
	ScopeHost   Scope = "host"
)

// Kind is one entry of the catalogue.
type Kind struct {
	// Name is the field's JSON name in the document: "networkLoss".
	Name    string
	Summary string
	Scope   Scope
	// Mechanisms is the ladder, best first.
	Mechanisms []Mechanism
	// Example is a fault of this kind as it stands in a document (YAML).
	Example string
	// Validate checks what the schema can't say. Paths are relative to the
	// fault. It is called for kinds that are not built yet too.
	Validate func(*v1.Fault) []Problem
	// Plan chooses mechanisms and lists the changes; it changes nothing. It
	// is nil for a kind that is not built yet.
	Plan func(context.Context, Request) (*Plan, error)
}

// Built tells whether this version can inject the kind.
func (k Kind) Built() bool { return k.Plan != nil }

// Mechanism is one way to inject a fault.
type Mechanism struct {
	Name    string
	Summary string
	// Needs are the capabilities without which it does not work here.
	Needs []kernel.Capability
}

// Cgroup is a cgroup of the unified hierarchy.
type Cgroup struct {
	// Path is the full path in the file system.
	Path string
	// ID is the kernel's id: the inode number of the directory.
	ID uint64
	// Level is the depth below the root of the hierarchy; the root has 0.
	Level int
}

// Request is what a fault is planned from.
type Request struct {
	Spec    *v1.Fault
	Cgroups []Cgroup
	// Seed of this fault's random choices.
	Seed    uint64
	Observe bool
	// Exempt are addresses whose packets are never touched unless the filter
	// names them; port 0 stands for every port.
	Exempt   []netip.AddrPort
	Prober   *kernel.Prober
	Resolver Resolver
	// CgroupRoot is the mount point of cgroup v2.
	CgroupRoot string
	Log        *slog.Logger
}

// Resolver turns host names into addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Plan is a fault that is ready to be injected.
type Plan struct {
	// Mechanism names what was chosen: "tcx", or "tcx+cgroup_skb" where each
	// direction has its own.
	Mechanism string
	// Summary says in plain words what will happen.
	Summary  string
	Changes  []*v1.Change
	Warnings []string
	// Claims are compared with those of faults that run at the same time.
	Claims []Claim
	// Inject puts everything in place, idle: nothing is hit before Start. It
	// returns an error only after it has taken back whatever it had already
	// done; an error from that is joined.
	Inject func(ctx context.Context, rec Recorder) (Injection, error)
	// Adopt takes over what an earlier process has pinned of this fault and
	// not taken back, as long as its lease runs and the programs are those
	// that this version would load; open are the fault's open records. After
	// an error nothing has changed, and the records are to be undone. It is
	// nil for a kind that can't be pinned.
	Adopt func(ctx context.Context, rec Recorder, open []Open) (Injection, error)
}

// Open is a record of an earlier process that is still to be undone.
type Open struct {
	Undo Undo
	// Undone closes the record, as Record's answer does.
	Undone Undone
}

// Claim is something that two faults must not both act on. Runs of other
// processes publish theirs: a claim is data (encoding/json), complete in
// itself.
type Claim interface {
	// Kind names the type where claims are stored: "packets".
	Kind() string
	// Conflict says in a few words what both act on, or "" when they don't
	// meet. Claims of different kinds never do.
	Conflict(other Claim) string
}

// Watch is a part of the system's state that a fault touches.
type Watch interface {
	// Key names the object; two watches with one key are the same.
	Key() string
	// State lists what is attached or set, one line for each thing, in a
	// stable order. It returns ErrGone when the object is.
	State() ([]string, error)
	// Differences says, one line for each, what of the change between two
	// states should not be: what of ours is left behind, and what was there
	// and is missing. What others add meanwhile is theirs.
	Differences(before, after []string) []string
}

// Lease is the time by which the kernel ends a fault that nobody renews.
type Lease struct {
	// Deadline is a time of CLOCK_BOOTTIME in nanoseconds.
	Deadline uint64
}

// BootTime is CLOCK_BOOTTIME in nanoseconds (clock_gettime(2)), the clock of the
// leases: it goes on while the machine sleeps, and nobody can set it.
func BootTime() uint64 {
	var now unix.Timespec
	// It only fails for a clock that does not exist.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return uint64(now.Nano())
}

// Injection is a fault that is in place. Its methods are called one at a time,
// but for Refresh, which may be under way while Renew, Counters and Events are
// called.
type Injection interface {
	// Start lets it begin, all of it at one moment. It is called once.
	Start(Lease) error
	// Renew moves the lease.
	Renew(Lease) error
	// Refresh follows what has changed since: interfaces, addresses,
	// processes in other network namespaces. The engine calls it about once
	// a second.
	Refresh(context.Context) error
	Counters() (Counters, error)
	// Events returns the sampled events since the last call.
	Events() []*v1.Event
	// Revert takes everything back, goes on after an error and returns all
	// of them. It may be called again.
	Revert(context.Context) error
}

// Counters are exact.
type Counters struct {
	// Matched by the filter while the fault was on.
	Matched uint64
	// Injected were hit; with observe, would have been hit.
	Injected uint64
	// Missed should have been hit and could not be.
	Missed uint64
}

// Undo is one step back, complete in itself: it can be stored, read by
// another process and run there.
type Undo interface {
	// Kind names the type in the journal: "tc-filter".
	Kind() string
	// Describe says what would be undone, for people.
	Describe() string
	// Survives tells whether what is undone outlives a reboot. What does not
	// is never undone after one: its names may belong to somebody else then.
	// What does has to be on stable storage when Undo returns nil, since the
	// record is closed right after.
	Survives() bool
	// Undo is idempotent, and returns nil when its object is gone.
	Undo(context.Context) error
}

// Recorder writes an undo down before anything is touched.
type Recorder interface {
	// Record returns after the record is on stable storage. After an error
	// nothing may be touched.
	Record(Undo) (Undone, error)
	// Watch keeps the state of something that is about to be touched, to be
	// compared when everything is taken back.
	Watch(Watch) error
	// PinDir is where in bpffs the fault pins what is to outlive the process
	// (persistence PINNED); "" for a fault that ends with it.
	PinDir() string
	// Commons is shared by the faults of the run.
	Commons() *Commons
}

// Undone is a record that waits to be undone.
type Undone interface {
	// Undo runs the recorded undo and closes the record when it succeeds.
	Undo(context.Context) error
}

// Problem is something wrong with a document.
type Problem struct {
	// Path is where, in JSON names: spec.steps[0].faults[1].filter.ports[0].
	Path string
	// Message says what is wrong and what is allowed.
	Message string
}

func (p Problem) Error() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// MaxDuration is the longest time that a fault may be asked for.
const MaxDuration = 24 * time.Hour

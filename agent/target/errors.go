package target

import "errors"

// Sentinels of this package.
var (
	// ErrNoCgroup2: no cgroup v2 hierarchy is mounted.
	ErrNoCgroup2 = errors.New("cgroup v2 is not mounted: boot with systemd.unified_cgroup_hierarchy=1, or mount it beside v1: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified")
	// ErrNotFound: what the target names does not exist, or does not run.
	ErrNotFound = errors.New("target not found")
	// ErrProtected: the target holds PID 1, the agent, sshd, kubelet or a
	// container runtime, or is the root cgroup.
	ErrProtected = errors.New("protected")
	// ErrInvalid: the target is written in a way that means nothing.
	ErrInvalid = errors.New("invalid target")
	// ErrUnknownLevel: the depth of a cgroup below the root of the hierarchy
	// can't be seen from this process's cgroup namespace.
	ErrUnknownLevel = errors.New("depth of the cgroup is unknown")
	// ErrNoSystemd: systemd does not run on this machine.
	ErrNoSystemd = errors.New("systemd does not run on this machine")
)

// tagged carries a sentinel for errors.Is without putting its words into the
// message, which already says the same about the case at hand.
type tagged struct {
	error
	kind error
}

func (t tagged) Unwrap() []error { return []error{t.error, t.kind} }

func tag(kind, err error) error { return tagged{err, kind} }

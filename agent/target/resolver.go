// Package target resolves the targets of an experiment to cgroups of the
// unified hierarchy, and refuses those that must not be touched.
package target

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// Resolver resolves targets on this machine. Its fields are set once, before
// the first use; after that it is safe for concurrent use.
type Resolver struct {
	// CgroupRoot is the mount point of cgroup v2; empty when there is none.
	CgroupRoot string
	// ProcRoot is the mount point of a proc of this process's PID namespace;
	// default "/proc".
	ProcRoot string
	// SelfPID is the process that must not become a target: the agent.
	SelfPID int
	// SystemdDir exists where systemd runs as the system manager
	// (sd_booted(3)); default "/run/systemd/system".
	SystemdDir string
	// DialSystemd connects to systemd; default is the system bus, then
	// systemd's private socket. The connection is closed after each use.
	DialSystemd func(context.Context) (*dbus.Conn, error)
}

func (r *Resolver) proc() string {
	if r.ProcRoot == "" {
		return "/proc"
	}
	return r.ProcRoot
}

// Resolve returns the cgroups of a target, sorted by path and each one once.
// Which of several matches are taken (pick) depends on nothing but the seed
// and their paths below the mount.
//
// It never widens: every match is checked against the rules of protection
// before some of them are picked, so that whether a target is refused does
// not depend on the seed. The path, the id and the level of a cgroup are all
// read from one descriptor.
//
// Errors match [ErrInvalid], [ErrNotFound], [ErrProtected], [ErrNoCgroup2],
// [ErrNoSystemd], [ErrUnknownLevel] or [fault.ErrNotBuilt].
func (r *Resolver) Resolve(ctx context.Context, t *v1.Target, seed uint64) ([]fault.Cgroup, error) {
	switch t.GetTarget().(type) {
	case *v1.Target_Container:
		return nil, fmt.Errorf("target container: %w", fault.ErrNotBuilt)
	case *v1.Target_Pod:
		return nil, fmt.Errorf("target pod: %w", fault.ErrNotBuilt)
	case *v1.Target_Host:
		return nil, fmt.Errorf("target host: %w", fault.ErrNotBuilt)
	case nil:
		return nil, tag(ErrInvalid, errors.New("target is missing: one of cgroup, systemdUnit, pid"))
	}
	h, err := r.hierarchy()
	if err != nil {
		return nil, err
	}
	defer h.close()

	var rels []string
	switch x := t.GetTarget().(type) {
	case *v1.Target_Cgroup:
		rels, err = h.match(x.Cgroup)
	case *v1.Target_SystemdUnit:
		rels, err = r.unit(ctx, h, x.SystemdUnit)
	case *v1.Target_Pid:
		rels, err = r.pid(h, int(x.Pid))
	default:
		return nil, fmt.Errorf("target %T: %w", x, fault.ErrNotBuilt)
	}
	if err != nil {
		return nil, err
	}
	members := make([]member, 0, len(rels))
	for _, rel := range rels {
		c, err := h.open(rel)
		if err == nil {
			err = r.protect(ctx, h, rel, c)
		}
		if errors.Is(err, ErrNotFound) && len(rels) > 1 {
			continue // one of many that ended since they were listed
		}
		if err != nil {
			return nil, err
		}
		members = append(members, member{rel: rel, cgroup: c})
	}
	if len(members) == 0 {
		return nil, tag(ErrNotFound, errors.New("every cgroup that the target matched is gone"))
	}
	return pick(members, t.GetPick(), seed)
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

const (
	mechanismFreeze = "cgroup_freeze"
	mechanismPidfd  = "pidfd"
)

// Pause is processPause: the cgroup's processes stop, and go on at the end.
func Pause() fault.Kind {
	return fault.Kind{
		Name:    "processPause",
		Summary: "stops the processes of the cgroup and lets them go on at the end",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismFreeze,
				Summary: "cgroup.freeze, which the processes can't see, behind a journal record",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupFreeze},
			},
			{
				Name:    mechanismPidfd,
				Summary: "SIGSTOP to each process, SIGCONT at the end; not built yet",
				Needs:   []kernel.Capability{kernel.CgroupV2},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
processPause: {}
duration: 10s`,
		Validate: validatePause,
		Plan:     planPause,
	}
}

func validatePause(spec *v1.Fault) []fault.Problem {
	pause := spec.GetProcessPause()
	p := check.Problems{Prefix: "processPause"}
	switch s := pause.GetSignal(); s {
	case "":
	case "SIGSTOP":
		p.Add("signal", "SIGSTOP is %s; leave it out for the cgroup freezer", fault.ErrNotBuilt)
	default:
		p.Add("signal", "%q does not pause; allowed is SIGSTOP, or nothing for the cgroup freezer", s)
	}
	if pause.GetInterval() != nil {
		p.Add("interval", "is %s; leave it out", fault.ErrNotBuilt)
	}
	if pause.GetCount() != 0 {
		p.Add("count", "is %s; leave it out", fault.ErrNotBuilt)
	}
	return append(p.List(), cgroupfile.Validate(spec, "processPause")...)
}

func planPause(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	if req.Spec.GetMechanism() == mechanismPidfd {
		return nil, fmt.Errorf("mechanism %s is %w; leave it out for the cgroup freezer", mechanismPidfd, fault.ErrNotBuilt)
	}
	mechanism, err := fault.Choose(ctx, req, Pause(), mechanismFreeze)
	if err != nil {
		return nil, err
	}
	f := &cgroupfile.Fault{
		Kind:    Pause(),
		File:    cgroupfile.CgroupFreeze,
		Summary: "stop all processes of each cgroup",
		Value:   freezable,
		Count:   countFrozen,
		Settle:  awaitFrozen,
	}
	return f.Plan(req, mechanism)
}

// freezable refuses a cgroup that stands still, by itself or by one above.
func freezable(d *cgroupfile.Dir, before string) (string, error) {
	if before != "0" {
		return "", cgroupfile.Refuse("it is frozen already (cgroup.freeze holds %q)", before)
	}
	events, err := d.Stat(eventsFile)
	if err != nil {
		return "", err
	}
	if events["frozen"] != 0 {
		return "", cgroupfile.Refuse("it is frozen already, by a cgroup above it")
	}
	return "1", nil
}

const eventsFile = "cgroup.events"

// awaitFrozen waits until the kernel says that all processes of the cgroup have
// stopped, and they have. One in an uninterruptible sleep stops when that ends,
// which may be never: countFrozen tells.
func awaitFrozen(c fault.Cgroup, d *cgroupfile.Dir, limit time.Time) error {
	for {
		err := d.Await(eventsFile, limit, func(events map[string]uint64) bool { return events["frozen"] == 1 })
		if err != nil {
			return err
		}
		// A cgroup with children counts as frozen as soon as they are, also
		// while processes of its own run (cgroup_propagate_frozen), and nothing
		// tells when the last of those stops.
		still, err := allStand(c)
		if err != nil || still || time.Now().After(limit) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func allStand(c fault.Cgroup) (bool, error) {
	pids, err := c.Processes()
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		if still, err := stands(pid); err != nil || !still {
			return false, err
		}
	}
	return true, nil
}

// countFrozen counts the processes of a cgroup while it is to stand still, and
// those of them that do not. A thread that runs or sleeps uninterruptibly has
// not stopped; one that has is in an interruptible sleep (do_freezer_trap).
func countFrozen(c fault.Cgroup, d *cgroupfile.Dir) (map[uint64]fault.Counters, error) {
	if value, err := d.Read(cgroupfile.CgroupFreeze); err != nil || value != "1" {
		return nil, err
	}
	pids, err := c.Processes()
	if err != nil {
		return nil, err
	}
	events, err := d.Stat(eventsFile)
	if err != nil {
		return nil, err
	}
	found := map[uint64]fault.Counters{}
	for _, pid := range pids {
		stopped := events["frozen"] == 1
		if !stopped {
			if stopped, err = stands(pid); err != nil {
				return nil, err
			}
		}
		if stopped {
			found[uint64(pid)] = fault.Counters{Matched: 1, Injected: 1}
		} else {
			found[uint64(pid)] = fault.Counters{Matched: 1, Missed: 1}
		}
	}
	return found, nil
}

// stands tells whether no thread of a process is on a CPU or on its way to one,
// or in an uninterruptible sleep, proc_pid_stat(5).
func stands(pid int) (bool, error) {
	tasks := filepath.Join("/proc", strconv.Itoa(pid), "task")
	entries, err := os.ReadDir(tasks)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("listing threads: %w", err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(tasks, entry.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// The name before it may hold anything, also parentheses.
		_, rest, ok := lastCut(string(text), ") ")
		if ok && strings.ContainsAny(rest[:1], "RDI") {
			return false, nil
		}
	}
	return true, nil
}

func lastCut(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	if i < 0 || i+len(separator) >= len(text) {
		return text, "", false
	}
	return text[:i], text[i+len(separator):], true
}

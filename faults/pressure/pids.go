package pressure

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Pids is pidsPressure: fewer tasks, by pids.max.
func Pids() fault.Kind {
	return limit(fault.Kind{
		Name:    "pidsPressure",
		Summary: "takes process ids away: a lower limit than the cgroup has, at which fork and new threads fail with EAGAIN",
		Example: `target: {systemdUnit: checkout.service}
pidsPressure: {limit: "100"}
duration: 60s`,
	}, kernel.PidsController, validatePids, planPids)
}

func validatePids(p *check.Problems, spec *v1.Fault) {
	pids := spec.GetPidsPressure()
	onlyLimit(p, pids.GetLimit(), pids.GetLoad() != 0, `a whole number of tasks, such as "100"`)
	if pids.GetLimit() == "" {
		return
	}
	if _, err := strconv.ParseUint(pids.GetLimit(), 10, 31); err != nil {
		p.Add("limit", `%q is no limit; write a whole number of tasks, such as "100"`, pids.GetLimit())
	}
}

func planPids(req fault.Request) (*cgroupfile.Fault, error) {
	tasks, err := strconv.ParseUint(req.Spec.GetPidsPressure().GetLimit(), 10, 31)
	if err != nil {
		return nil, fmt.Errorf("reading the limit: %w", err)
	}
	byLimit, err := countsByLimit(req.CgroupRoot)
	if err != nil {
		return nil, err
	}
	return &cgroupfile.Fault{
		File:       cgroupfile.PidsMax,
		Controller: "pids",
		Summary:    fmt.Sprintf("let fork fail in each cgroup that has %d tasks (processes and threads)", tasks),
		Value: func(_ *cgroupfile.Dir, before string) (string, error) {
			had, err := parseLimit(before)
			if err != nil {
				return "", err
			}
			if tasks >= had {
				return "", cgroupfile.ErrTighter
			}
			return strconv.FormatUint(tasks, 10), nil
		},
		Count: func(c fault.Cgroup, d *cgroupfile.Dir) (map[uint64]fault.Counters, error) {
			return countPids(c, d, byLimit)
		},
	}, nil
}

// countPids counts the forks that failed.
//
// From 6.11 pids.events.local counts those that this cgroup's limit refused,
// wherever below they were tried. Before, and on a hierarchy that is mounted
// with pids_localevents, pids.events counts where they were tried, whichever
// limit refused them: then those of the cgroup and of all below are taken
// (kernel/cgroup/pids.c, pids_event).
func countPids(c fault.Cgroup, d *cgroupfile.Dir, byLimit bool) (map[uint64]fault.Counters, error) {
	counters := func(events map[string]uint64) fault.Counters {
		return fault.Counters{Matched: events["max"], Injected: events["max"]}
	}
	if byLimit {
		events, err := d.Stat("pids.events.local")
		if !errors.Is(err, os.ErrNotExist) {
			return map[uint64]fault.Counters{c.ID: counters(events)}, err
		}
	}
	found := map[uint64]fault.Counters{}
	err := d.Descend(func(id uint64, d *cgroupfile.Dir) error {
		events, err := d.Stat("pids.events")
		if errors.Is(err, os.ErrNotExist) {
			return nil // the controller is not enabled there
		}
		found[id] = counters(events)
		return err
	})
	return found, err
}

// countsByLimit tells whether the hierarchy is mounted without
// pids_localevents, proc_pid_mountinfo(5).
func countsByLimit(root string) (bool, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("reading the mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if len(fields) > 4 && fields[4] == root && len(source) > 2 && source[0] == "cgroup2" {
			return !slices.Contains(strings.Split(source[2], ","), "pids_localevents"), nil
		}
	}
	return true, lines.Err()
}

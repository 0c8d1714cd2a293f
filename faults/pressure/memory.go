package pressure

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Memory is memoryPressure: less memory, by memory.high.
func Memory() fault.Kind {
	return limit(fault.Kind{
		Name:    "memoryPressure",
		Summary: "takes memory away: a lower limit than the cgroup has, above which it is slowed down and reclaimed from",
		Example: `target: {systemdUnit: checkout.service}
memoryPressure: {limit: 256MiB}
duration: 60s`,
	}, kernel.MemoryController, validateMemory, planMemory)
}

func validateMemory(p *check.Problems, spec *v1.Fault) {
	memory := spec.GetMemoryPressure()
	onlyLimit(p, memory.GetLimit(), memory.GetLoad() != 0, "a size such as 256MiB")
	if memory.GetLimit() == "" {
		return
	}
	if v, err := units.ParseBytes(memory.GetLimit()); err != nil {
		p.Add("limit", "%s", err)
	} else if v == 0 {
		p.Add("limit", "is 0; give a size above 0, such as 256MiB")
	}
}

func planMemory(req fault.Request) (*cgroupfile.Fault, error) {
	given := req.Spec.GetMemoryPressure().GetLimit()
	bytes, err := units.ParseBytes(given)
	if err != nil {
		return nil, err
	}
	// The kernel counts in pages (page_counter_memparse).
	page := uint64(os.Getpagesize())
	rounded := bytes / page * page
	if rounded == 0 {
		return nil, cgroupfile.Refuse("a limit of %s is less than a page of memory (%s)", given, units.FormatBytes(page))
	}
	return &cgroupfile.Fault{
		File:       cgroupfile.MemoryHigh,
		Controller: "memory",
		Summary:    fmt.Sprintf("slow each cgroup down and reclaim from it above %s of memory", units.FormatBytes(rounded)),
		Value: func(_ *cgroupfile.Dir, before string) (string, error) {
			had, err := parseLimit(before)
			if err != nil {
				return "", err
			}
			if rounded >= had {
				return "", cgroupfile.ErrTighter
			}
			return strconv.FormatUint(rounded, 10), nil
		},
		Warn: func(d *cgroupfile.Dir, _ string) []string {
			text, err := d.Read("memory.max")
			if hard, parsed := parseLimit(text); err == nil && parsed == nil && hard <= rounded {
				return []string{fmt.Sprintf("memory.max is %s, so that memory.high is never reached", text)}
			}
			return nil
		},
		Count: countMemory,
	}, nil
}

// parseLimit reads a file that holds one number or "max".
func parseLimit(text string) (uint64, error) {
	if text == cgroupfile.Unlimited {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading a limit: %w", err)
	}
	return n, nil
}

// countMemory counts how often this cgroup was found above its limit and had
// to reclaim. memory.events adds the limits of cgroups below to it. Neither is
// ever reset (mm/memcontrol.c, reclaim_high).
func countMemory(c fault.Cgroup, d *cgroupfile.Dir) (map[uint64]fault.Counters, error) {
	events, err := d.Stat("memory.events.local")
	if errors.Is(err, os.ErrNotExist) { // before 5.2
		events, err = d.Stat("memory.events")
	}
	if err != nil {
		return nil, err
	}
	return map[uint64]fault.Counters{c.ID: {Matched: events["high"], Injected: events["high"]}}, nil
}

package pressure

import (
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// CPU is cpuPressure: less processor time, by cpu.max.
func CPU() fault.Kind {
	return limit(fault.Kind{
		Name:    "cpuPressure",
		Summary: "takes processor time away: a lower limit than the cgroup has",
		Example: `target: {systemdUnit: checkout.service}
cpuPressure: {limit: "20%"}
duration: 60s`,
	}, kernel.CPUController, validateCPU, planCPU)
}

// cpuMax is what cpu.max takes: microseconds of each period of microseconds.
var cpuMax = regexp.MustCompile(`^([0-9]{1,10})(?: ([0-9]{1,10}))?$`)

// The kernel takes quotas and periods from 1 ms, and periods up to 1 s
// (kernel/sched/core.c, tg_set_cfs_bandwidth); a new cgroup has a period of
// 100 ms.
const (
	leastCPU      = 1000
	longestPeriod = 1_000_000
	usualPeriod   = 100_000
	// percentMax is far beyond every machine, and far below what the kernel
	// can count with.
	percentMax = 1_000_000
)

// cpuLimit is a limit as the document gives it: percent of one CPU, or a quota
// and maybe a period in microseconds.
type cpuLimit struct {
	percent       float64
	quota, period uint64
}

func parseCPU(text string) (l cpuLimit, ok bool) {
	if number, is := strings.CutSuffix(text, "%"); is {
		v, err := strconv.ParseFloat(number, 64)
		// One percent is the least quota of the usual period.
		return cpuLimit{percent: v}, err == nil && v >= 1 && v <= percentMax
	}
	m := cpuMax.FindStringSubmatch(text)
	if m == nil {
		return l, false
	}
	// They have ten digits at the most.
	l.quota, _ = strconv.ParseUint(m[1], 10, 64)
	l.period, _ = strconv.ParseUint(m[2], 10, 64)
	return l, l.quota >= leastCPU && (m[2] == "" || l.period >= leastCPU && l.period <= longestPeriod)
}

// of returns quota and period in a file that has a period already.
func (l cpuLimit) of(period uint64) (uint64, uint64) {
	if l.percent == 0 {
		if l.period != 0 {
			period = l.period
		}
		return l.quota, period
	}
	quota := func() uint64 { return uint64(l.percent / 100 * float64(period)) }
	if quota() < leastCPU {
		period = usualPeriod
	}
	return quota(), period
}

func validateCPU(p *check.Problems, spec *v1.Fault) {
	cpu := spec.GetCpuPressure()
	onlyLimit(p, cpu.GetLimit(), cpu.GetLoad() != 0, `percent of one CPU, such as "20%"`)
	if cpu.GetLimit() == "" {
		return
	}
	if _, ok := parseCPU(cpu.GetLimit()); !ok {
		p.Add("limit", `%q is no limit; write percent of one CPU ("20%%"), at least 1, or quota and period in microseconds as in cpu.max ("20000 100000"), both from %d, the period at most %d`,
			cpu.GetLimit(), leastCPU, longestPeriod)
	}
}

func planCPU(req fault.Request) (*cgroupfile.Fault, error) {
	text := req.Spec.GetCpuPressure().GetLimit()
	wanted, ok := parseCPU(text)
	if !ok {
		return nil, fmt.Errorf("%q is no limit", text)
	}
	summary := fmt.Sprintf("give each cgroup %d us of processor time per period", wanted.quota)
	switch {
	case wanted.percent != 0:
		summary = fmt.Sprintf("give each cgroup %s of one CPU", text)
	case wanted.period != 0:
		summary = fmt.Sprintf("give each cgroup %d us of processor time in %d us", wanted.quota, wanted.period)
	}
	return &cgroupfile.Fault{
		File:       cgroupfile.CPUMax,
		Controller: "cpu",
		Summary:    summary,
		Value:      wanted.value,
		Warn:       warnCPU,
		Count:      countCPU,
	}, nil
}

func (l cpuLimit) value(d *cgroupfile.Dir, before string) (string, error) {
	hadQuota, hadPeriod, err := parseCPUMax(before)
	if err != nil {
		return "", err
	}
	quota, period := l.of(hadPeriod)
	// Neither product is beyond 64 bits: a quota has 44 (max_bw_quota_period_us).
	if quota*hadPeriod >= hadQuota*period {
		return "", cgroupfile.ErrTighter
	}
	if d == nil {
		return "", nil
	}
	burst, err := d.Read("cpu.max.burst")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // since 5.14
		return "", err
	}
	if n, _ := strconv.ParseUint(burst, 10, 64); n > quota {
		return "", cgroupfile.Refuse("cpu.max.burst is %d, and the kernel takes no quota below that (%d us here): write less to cpu.max.burst first, or give a higher limit", n, quota)
	}
	return fmt.Sprintf("%d %d", quota, period), nil
}

// parseCPUMax reads what cpu.max holds. No limit is the largest quota.
func parseCPUMax(text string) (quota, period uint64, err error) {
	first, second, _ := strings.Cut(text, " ")
	quota = math.MaxUint64 / longestPeriod
	if first != cgroupfile.Unlimited {
		quota, err = strconv.ParseUint(first, 10, 64)
	}
	period, periodErr := strconv.ParseUint(second, 10, 64)
	if err := errors.Join(err, periodErr); err != nil {
		return 0, 0, fmt.Errorf("reading cpu.max: %w", err)
	}
	return quota, period, nil
}

func warnCPU(_ *cgroupfile.Dir, value string) []string {
	quota, period, err := parseCPUMax(value)
	if cpus := uint64(runtime.NumCPU()); err == nil && quota >= cpus*period {
		return []string{fmt.Sprintf("a limit of %s squeezes nothing on a machine with %d CPUs", value, cpus)}
	}
	return nil
}

// countCPU counts the periods in which a limit was enforced, and those in which
// somebody had to wait; a cgroup without a limit has none, and the counters are
// never reset (kernel/sched/core.c, cpu_extra_stat_show).
func countCPU(c fault.Cgroup, d *cgroupfile.Dir) (map[uint64]fault.Counters, error) {
	stat, err := d.Stat("cpu.stat")
	if err != nil {
		return nil, err
	}
	return map[uint64]fault.Counters{c.ID: {Matched: stat["nr_periods"], Injected: stat["nr_throttled"]}}, nil
}

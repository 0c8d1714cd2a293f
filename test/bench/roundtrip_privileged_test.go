//go:build linux && privileged

package bench_test

import (
	"testing"
	"time"

	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
)

// tripVariant is one row of BenchmarkRoundTrips.
type tripVariant struct {
	name    string
	set     setting
	place   *place
	missing string

	target, bystander env.RoundTrips
	// Of all rounds, and the medians of the bystander's in each, ms.
	pings, dials, theirs []time.Duration
	byHalf               []float64
}

// BenchmarkRoundTrips compares how long ICMP echoes and TCP connections of a
// target take that is delayed by 50 ms, and those of a bystander on its
// interface.
func BenchmarkRoundTrips(b *testing.B) {
	const delay = 50 * time.Millisecond
	variants := []*tripVariant{
		{name: "nothing", set: nothing},
		{name: "nothing, again", set: nothing},
		{name: withNetem, set: netemDelay(delay)},
		{name: "netem, again", set: netemDelay(delay)},
		{name: "tcx_fq", set: late("tcx_fq", delay)},
		{name: "cls_bpf_fq", set: late("cls_bpf_fq", delay)},
		// What passes by the same programs, without a queue.
		{name: "tcx, other port", set: lossy("tcx")},
		{name: "cls_bpf, other port", set: lossy("cls_bpf")},
		{name: "fq alone", set: onlyQdisc("fq")},
		{name: "fq_codel alone", set: onlyQdisc("fq_codel")},
	}
	prober := newProber(b)
	var active []*tripVariant
	for _, v := range variants {
		v.place = newPlace(b, prober)
		env.ServeRoundTrips(b, v.place.network, v.place.receiver)
		v.target = env.NewRoundTrips(b, v.place.network, v.place.target)
		v.bystander = env.NewRoundTrips(b, v.place.network, v.place.bystander)
		if v.missing = v.set(v.place); v.missing == "" {
			active = append(active, v)
		}
	}
	bench.Interleave(*tripRoundsFlag, len(active), func(i int) { active[i].measureBystander() })
	bench.Interleave(*tripRoundsFlag, len(active), func(i int) { active[i].measureTarget() })
	report := newReport("roundtrips", "Round trips of a target that is delayed by 50 ms, and of a bystander on its interface; ms, and what they are away from netem's; the bystander's as a ratio")
	report.Rounds = *tripRoundsFlag
	report.Columns = []bench.Column{
		{Key: "ping_p50", Head: "ping p50", Digits: 2},
		{Key: "ping_p50_off", Head: "from netem's", Digits: 2},
		{Key: "ping_p99", Head: "ping p99", Digits: 2},
		{Key: "ping_p99_off", Head: "from netem's", Digits: 2},
		{Key: "dial_p50", Head: "connect p50", Digits: 2},
		{Key: "dial_p50_off", Head: "from netem's", Digits: 2},
		{Key: "dial_p99", Head: "connect p99", Digits: 2},
		{Key: "dial_p99_off", Head: "from netem's", Digits: 2},
		{Key: "bystander_p50", Head: "bystander's ping, ratio", Digits: 2},
		{Key: "bystander_all", Head: "ratio of all", Digits: 2},
	}
	for _, v := range variants {
		report.Rows = append(report.Rows, v.row(variants[0], variants[2]))
	}
	write(b, report)
}

// A variant's turn. Nobody else pings then, so that what waits for a CPU waits for
// its own kind.
func (v *tripVariant) measureTarget() {
	v.target.Ping(6, 9*time.Millisecond)
	v.pings = append(v.pings, v.target.Times()...)
	v.target.Dial(3, 17*time.Millisecond)
	v.dials = append(v.dials, v.target.Times()...)
}

func (v *tripVariant) measureBystander() {
	v.bystander.Ping(21, 3*time.Millisecond)
	times := v.bystander.Times()
	v.theirs, v.byHalf = append(v.theirs, times...), append(v.byHalf, inMilliseconds(env.Quantile(times, 0.5)))
}

// row compares with nothing and with netem.
func (v *tripVariant) row(base, netem *tripVariant) bench.Row {
	if v.missing != "" {
		return bench.Row{Name: v.name, Skipped: v.missing}
	}
	one := func(d time.Duration) bench.Spread { return bench.SpreadOf([]float64{inMilliseconds(d)}) }
	values := map[string]bench.Spread{
		"ping_p50":      one(env.Quantile(v.pings, 0.5)),
		"ping_p99":      one(env.Quantile(v.pings, 0.99)),
		"dial_p50":      one(env.Quantile(v.dials, 0.5)),
		"dial_p99":      one(env.Quantile(v.dials, 0.99)),
		"bystander_p50": bench.SpreadOf(bench.Ratios(v.byHalf, base.byHalf)),
		// The median of all rounds.
		"bystander_all": bench.SpreadOf([]float64{env.Quantile(v.theirs, 0.5).Seconds() / env.Quantile(base.theirs, 0.5).Seconds()}),
	}
	if netem.missing == "" && v != base {
		off := func(ours, theirs []time.Duration, q float64) bench.Spread {
			return one(env.Quantile(ours, q) - env.Quantile(theirs, q))
		}
		values["ping_p50_off"], values["ping_p99_off"] = off(v.pings, netem.pings, 0.5), off(v.pings, netem.pings, 0.99)
		values["dial_p50_off"], values["dial_p99_off"] = off(v.dials, netem.dials, 0.5), off(v.dials, netem.dials, 0.99)
	}
	return bench.Row{Name: v.name, Values: values}
}

func inMilliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

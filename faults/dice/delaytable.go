package dice

import (
	"math"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// DelayShape says how T is taken from a table. The values are those of enum
// fl_delay_shape.
type DelayShape uint32

// The shapes.
const (
	// DelaySteps: the entries of the table, each equally likely.
	DelaySteps DelayShape = iota
	// DelaySmooth: evenly between two neighbours among the entries, each pair
	// equally likely.
	DelaySmooth
)

// MaxDelayTable is how many numbers a table from a file may have; it is netem's
// limit (NETEM_DIST_MAX in include/uapi/linux/pkt_sched.h).
const MaxDelayTable = 16384

// The bounds of T in the tables of netem, which keeps it in 16 bits, in parts
// of 8192 (NETEM_DIST_SCALE).
const (
	netemScale = 8192
	netemLeast = math.MinInt16
	netemMost  = math.MaxInt16
)

// smoothParts is the number of parts of the smooth tables: as many as the
// tables of iproute2 have entries. A part holds 0.02 percent of the events, and
// the table takes 16 KiB of the processor's cache.
const smoothParts = 4096

// DelayTable is the inverse of a distribution function: T by its probability.
type DelayTable struct {
	shape DelayShape
	// entries are T in parts of 2^28. A smooth table has one more than parts.
	entries []int32
}

// NewDelayTable makes the table of a distribution; T without a unit is in
// multiples of the jitter.
//
// UNIFORM, and nothing given: evenly from -1 to 1.
//
// NORMAL: the normal distribution with mean 0 and deviation 1, between -4 and
// 4; outside are 0.006 percent, which are taken in. netem's own table ends at
// -4 and 3.52.
//
// PARETO: that of netem's table (netem/pareto.c of iproute2): T = 4/3 (X - 3/2),
// at the most 32767/8192, X being a Pareto variable with exponent 3 and least
// value 1. X has the mean 3/2, so that T has the mean 0 but for the limit, which
// 1.1 percent reach: with it the mean is -0.033 and the deviation 0.82. The
// least value is -2/3, the median -0.32.
func NewDelayTable(distribution v1.Distribution) DelayTable {
	switch distribution {
	case v1.Distribution_NORMAL:
		return smooth(smoothParts, normalQuantile)
	case v1.Distribution_PARETO:
		return smooth(smoothParts, paretoQuantile)
	default:
		return smooth(1, func(p float64) float64 { return 2*p - 1 })
	}
}

func normalQuantile(p float64) float64 {
	return min(max(math.Sqrt2*math.Erfinv(2*p-1), -4), 4)
}

func paretoQuantile(p float64) float64 {
	return min(4./3*(math.Pow(1-p, -1./3)-1.5), float64(netemMost)/netemScale)
}

func smooth(parts int, quantile func(p float64) float64) DelayTable {
	t := DelayTable{shape: DelaySmooth, entries: make([]int32, parts+1)}
	for i := range t.entries {
		t.entries[i] = int32(math.Round(quantile(float64(i)/float64(parts)) * (1 << delayFraction)))
	}
	return t
}

// steps makes a table of numbers as netem has them. Their order has no meaning.
func steps(numbers []int16) DelayTable {
	t := DelayTable{shape: DelaySteps, entries: make([]int32, len(numbers))}
	for i, n := range numbers {
		t.entries[i] = int32(n) * (1 << delayFraction / netemScale)
	}
	return t
}

// Shape is the field shape of struct fl_delay.
func (t DelayTable) Shape() uint32 { return uint32(t.shape) }

// Size is the field size of struct fl_delay.
func (t DelayTable) Size() uint32 {
	if t.shape == DelaySmooth {
		return uint32(len(t.entries)) - 1
	}
	return uint32(len(t.entries))
}

// Value is the value of the map fl_delays: struct fl_delay_table.
func (t DelayTable) Value() []int32 {
	value := make([]int32, MaxDelayTable+1)
	copy(value, t.entries)
	return value
}

// factor is delay_factor of the programs: T for a random number.
func (t DelayTable) factor(random uint32) int64 {
	at := (2*uint64(random) + 1) * uint64(t.Size())
	low := int64(t.entries[at>>33])
	if t.shape == DelaySteps {
		return low
	}
	part := int64(at >> 5 & (1<<28 - 1))
	return low + (int64(t.entries[at>>33+1])-low)*part>>28
}

// most is the largest T, 0 for no table.
func (t DelayTable) most() int64 {
	if len(t.entries) == 0 {
		return 0
	}
	return int64(slices.Max(t.entries))
}

// Netem is the table as netem takes it, in parts of 8192; nil for none, and for
// the even one, which netem needs no table for.
func (t DelayTable) Netem() (numbers []int16) {
	if t.shape == DelaySmooth && t.Size() <= 1 {
		return nil
	}
	for i := range t.Size() {
		entry := int64(t.entries[i])
		if t.shape == DelaySmooth {
			entry = (entry + int64(t.entries[i+1])) / 2
		}
		numbers = append(numbers, int16(min(max(entry/(1<<delayFraction/netemScale), netemLeast), netemMost)))
	}
	return numbers
}

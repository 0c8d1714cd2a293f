// Package bench measures what a fault costs, as ratios of one run: every
// variant is measured in every round, and compared with the baseline of the
// same round. Absolute speeds are those of the machine and of what else it
// does; they are kept in the report and promised by nobody.
package bench

import (
	"math"
	"slices"
)

// Spread is a distribution: its median and its quartiles.
type Spread struct {
	Low    float64 `json:"q1"`
	Median float64 `json:"median"`
	High   float64 `json:"q3"`
}

// SpreadOf returns the spread of the values, interpolated between neighbours;
// all zero when there are none.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	at := func(q float64) float64 {
		place := q * float64(len(sorted)-1)
		below, rest := math.Modf(place)
		i := int(below)
		if i+1 == len(sorted) {
			return sorted[i]
		}
		return sorted[i] + rest*(sorted[i+1]-sorted[i])
	}
	return Spread{at(0.25), at(0.5), at(0.75)}
}

// Ratios divides each round's value by the baseline of the same round. Rounds
// that lack one of both are left out.
func Ratios(values, baseline []float64) []float64 {
	var list []float64
	for i := range min(len(values), len(baseline)) {
		if baseline[i] > 0 && !math.IsNaN(values[i]) {
			list = append(list, values[i]/baseline[i])
		}
	}
	return list
}

// Interleave calls measure once per round for each of n variants. Every round
// begins with another variant and every second one goes backwards, so that no
// variant always follows the same one.
func Interleave(rounds, n int, measure func(variant int)) {
	for round := range rounds {
		for i := range n {
			variant := (round + i) % n
			if round%2 == 1 {
				variant = (round + n - i) % n
			}
			measure(variant)
		}
	}
}

// Report is what one benchmark found on one kernel.
type Report struct {
	// Benchmark names it: "packets".
	Benchmark string `json:"benchmark"`
	// Kernel is the id of test/vm/kernels.yaml, or "host".
	Kernel string `json:"kernel"`
	// Release is what uname(2) says.
	Release string `json:"release"`
	CPUs    int    `json:"cpus"`
	Title   string `json:"title"`
	Rounds  int    `json:"rounds"`
	// Columns of the table, in order.
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Column is one figure of every row.
type Column struct {
	// Key of Row.Values.
	Key string `json:"key"`
	// Head is what people read.
	Head string `json:"head"`
	// Digits after the point.
	Digits int `json:"digits"`
}

// Row is one variant.
type Row struct {
	Name string `json:"name"`
	// Skipped says why there are no figures.
	Skipped string            `json:"skipped,omitempty"`
	Values  map[string]Spread `json:"values,omitempty"`
}

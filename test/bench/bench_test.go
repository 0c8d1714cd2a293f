package bench

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpreadIsMedianAndQuartiles(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{7}, Spread{7, 7, 7}},
		{[]float64{5, 1, 3, 2, 4}, Spread{2, 3, 4}},
		{[]float64{4, 1, 3, 2}, Spread{1.75, 2.5, 3.25}},
	} {
		if got := SpreadOf(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	got := Ratios([]float64{2, 30, 5}, []float64{1, 10, 0})
	if diff := cmp.Diff([]float64{2, 3}, got); diff != "" {
		t.Error(diff)
	}
}

func TestInterleaveMeasuresEachVariantOncePerRound(t *testing.T) {
	const rounds, variants = 8, 3
	var order []int
	Interleave(rounds, variants, func(variant int) { order = append(order, variant) })
	followers := map[[2]int]bool{}
	for round := range rounds {
		seen := map[int]bool{}
		for _, variant := range order[round*variants : (round+1)*variants] {
			seen[variant] = true
		}
		if len(seen) != variants {
			t.Errorf("round %d measured %v", round, order[round*variants:(round+1)*variants])
		}
	}
	for i := range len(order) - 1 {
		followers[[2]int{order[i], order[i+1]}] = true
	}
	for a := range variants {
		for b := range variants {
			if a != b && !followers[[2]int{a, b}] {
				t.Errorf("variant %d never follows %d", b, a)
			}
		}
	}
}

func TestTableShowsFiguresAndWhatIsMissing(t *testing.T) {
	var out strings.Builder
	err := WriteTable(&out, Report{
		Kernel: "host", Release: "6.1", CPUs: 2, Title: "Cost", Rounds: 3,
		Columns: []Column{{"cpu", "CPU", 2}, {"wall", "time", 1}},
		Rows: []Row{
			{Name: "nothing", Values: map[string]Spread{"cpu": {0.99, 1, 1.011}, "wall": {1, 2, 3}}},
			{Name: "netem", Skipped: "no module"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `Cost
host, Linux 6.1, 2 CPUs, 3 rounds; median (quartiles)

| variant | CPU               | time           |
|---------|-------------------|----------------|
| nothing | 1.00 (0.99..1.01) | 2.0 (1.0..3.0) |

not on this kernel: netem (no module)
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

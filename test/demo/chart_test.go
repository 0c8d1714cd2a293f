//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestChart(t *testing.T) {
	values := []float64{0, 0.001, 25, 50, 75, 100}
	for _, test := range []struct {
		name string
		glyphs
		want []string
	}{
		{"blocks", blocks, []string{
			"    100 │    ▄█",
			"      0 │ ▁▄███",
		}},
		{"ascii", ascii, []string{
			"    100 |    :#",
			"      0 | .:###",
		}},
	} {
		if diff := cmp.Diff(test.want, test.chart(values, 2, plainLabel, nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestChartOfNothing(t *testing.T) {
	want := []string{"      1 │", "        │", "      0 │"}
	if diff := cmp.Diff(want, blocks.chart(make([]float64, 5), 3, plainLabel, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestChartPaintsColumnsOnly(t *testing.T) {
	got := ascii.chart([]float64{1, 0, 1}, 1, plainLabel, func(i int, s string) string { return fmt.Sprintf("<%d%s>", i, s) })
	if diff := cmp.Diff([]string{"      1 |<0#> <2#>"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTimelineIsAsWideAsItsColumns(t *testing.T) {
	got := blocks.timeline([]section{{"before", 4}, {"30 % loss", 12}, {"after", 8}})
	want := []string{
		"        └───┴───────────┴────────",
		"         bef 30 % loss   after",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNiceTop(t *testing.T) {
	for most, want := range map[float64]float64{
		0: 1, 0.3: 0.3, 1: 1, 1.1: 2, 3: 3, 10: 10, 17: 20, 21: 25, 212: 250, 251: 300, 410: 500, 501: 1000, 2100: 2500,
	} {
		if got := niceTop([]float64{0, most}); got < want*0.999 || got > want*1.001 {
			t.Errorf("top for %g: got %g, want %g", most, got, want)
		}
	}
}

func TestLatency(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "-",
		430 * time.Microsecond:   "0.4 ms",
		9940 * time.Microsecond:  "9.9 ms",
		12300 * time.Microsecond: "12 ms",
		999 * time.Millisecond:   "999 ms",
		1260 * time.Millisecond:  "1.3 s",
	} {
		if got := latency(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	for ms, want := range map[float64]string{0: "0", 50: "50 ms", 2500: "2.5 s"} {
		if got := latencyLabel(ms); got != want {
			t.Errorf("label %g: got %q, want %q", ms, got, want)
		}
	}
}

func TestColumnsHaveRoom(t *testing.T) {
	for _, span := range []time.Duration{time.Second, 17 * time.Second, 17500 * time.Millisecond, 18 * time.Second, time.Minute} {
		step := columnOf(span)
		if step < columnLeast || step%columnStep != 0 || span > chartColumns*step {
			t.Errorf("%v: columns of %v", span, step)
		}
	}
	if got := columnOf(17 * time.Second); got != columnLeast {
		t.Errorf("the usual chart has columns of %v", got)
	}
}

// TestNothingIsTooWide holds the widest that may come against a terminal of 80
// columns.
func TestNothingIsTooWide(t *testing.T) {
	much := summary{requests: 99999, errors: 999, retransmitted: 9999, rate: 999, p50: 999 * time.Millisecond, p95: 99 * time.Second, max: 99 * time.Second}
	lines := table([]row{{who: roleBystander, when: "during", summary: much}}, strings.ToUpper)
	lines = append(lines, blocks.chart(make([]float64, chartColumns), 3, plainLabel, nil)...)
	lines = append(lines, blocks.timeline([]section{{"before", chartColumns}})...)
	lines = append(lines, "     bystander  "+much.String())
	for _, line := range lines {
		if width := utf8.RuneCountInString(line); width > 79 {
			t.Errorf("%d columns: %s", width, line)
		}
	}
}

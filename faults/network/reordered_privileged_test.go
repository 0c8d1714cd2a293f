//go:build linux && privileged

package network_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// reordered is what a receiver saw.
type reordered struct {
	t        *testing.T
	arrivals []env.Arrival
	// chosen are the numbers that are to fall back.
	chosen []int
}

func (r reordered) isChosen(number int) bool {
	_, is := slices.BinarySearch(r.chosen, number)
	return is
}

// once wants each packet to come once.
func (r reordered) once(count int) {
	r.t.Helper()
	if twice := doubles(r.t, r.arrivals, count); len(twice) > 0 {
		r.t.Errorf("%d packets came twice", len(twice))
	}
}

// passed says of each packet that came after later ones how many.
func (r reordered) passed() map[int]int {
	passed := map[int]int{}
	for i, a := range r.arrivals {
		for _, earlier := range r.arrivals[:i] {
			if earlier.Number > a.Number {
				passed[a.Number]++
			}
		}
	}
	return passed
}

// close counts the chosen packets that came at nearly the same moment as the
// first one that could pass them: which was first at the interface is not to be
// told from the side of the receiver. What is due waits longer for a CPU of an
// emulated machine.
func (r reordered) close() (n int) {
	moment := 500 * time.Microsecond
	if _, guest, _ := kernels.Current(); guest {
		moment = 3 * time.Millisecond
	}
	at := map[int]time.Duration{}
	for _, a := range r.arrivals {
		at[a.Number] = a.At
	}
	last := slices.Max(numbers(r.arrivals))
	for _, number := range r.chosen {
		next := number + 1
		for next <= last && (r.isChosen(next) || at[next] == 0) {
			next++
		}
		if next <= last && (at[next]-at[number]).Abs() < moment {
			n++
		}
	}
	return n
}

// agrees compares with the choice and with the counters.
func (r reordered) agrees(injection fault.Injection, matched uint64) {
	r.t.Helper()
	r.onlyChosen()
	r.counted(injection, matched)
}

// onlyChosen wants nothing else to be passed.
func (r reordered) onlyChosen() {
	r.t.Helper()
	for number := range r.passed() {
		if !r.isChosen(number) {
			r.t.Errorf("packet %d was passed, and was not chosen", number)
		}
	}
}

// counted wants those to be counted that were chosen and passed.
func (r reordered) counted(injection fault.Injection, matched uint64) {
	r.t.Helper()
	counters, err := injection.Counters()
	if err != nil {
		r.t.Fatal(err)
	}
	passed := r.passed()
	maps.DeleteFunc(passed, func(number, _ int) bool { return !r.isChosen(number) })
	unclear := r.close()
	r.t.Logf("counted %+v; %d of %d were passed, %d at the same moment", counters, len(passed), len(r.chosen), unclear)
	if difference := int(counters.Injected) - len(passed); max(difference, -difference) > unclear {
		r.t.Errorf("%d packets were passed, the kernel counted %d", len(passed), counters.Injected)
	}
	if counters.Matched != matched || counters.Injected+counters.Missed != uint64(len(r.chosen)) {
		r.t.Errorf("counted %+v of %d packets, of which %d were chosen", counters, matched, len(r.chosen))
	}
	// A sender that stands still for a while lets nothing pass.
	if missed := int(counters.Missed); missed > len(r.chosen)/4 {
		r.t.Errorf("%d of %d were passed by none", missed, len(r.chosen))
	}
}

// far wants half of them about as far back as was asked for.
func (r reordered) far(gap int) {
	r.t.Helper()
	var distances []int
	for _, n := range r.passed() {
		distances = append(distances, n)
	}
	slices.Sort(distances)
	if len(distances) == 0 {
		r.t.Fatal("no packet was passed")
	}
	median := distances[len(distances)/2]
	r.t.Logf("passed by %d (median), %d to %d", median, distances[0], distances[len(distances)-1])
	if median < gap-1 || median > gap+2 {
		r.t.Errorf("half of the packets fell back by %d and more, wanted %d", median, gap)
	}
}

// others wants those that pass to come at once.
func (r reordered) others() {
	r.t.Helper()
	var waited, passing []time.Duration
	for _, a := range r.arrivals {
		switch {
		case r.isChosen(a.Number):
			waited = append(waited, a.Took)
		case r.isChosen(a.Number - 1):
			passing = append(passing, a.Took)
		}
	}
	long, short := env.Quantile(waited, 0.5), env.Quantile(passing, 0.5)
	r.t.Logf("took %s (median), those behind them %s", long, short)
	if short > long/2 {
		r.t.Errorf("packets wait behind those that they are to pass: half of them %s, and the others %s", short, long)
	}
}

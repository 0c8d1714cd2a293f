package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"faultline.dev/faultline/test/powercut/internal/disk"
	"faultline.dev/faultline/test/powercut/internal/event"
)

func TestRunRefuses(t *testing.T) {
	for _, tc := range []struct {
		args []string
		text string
	}{
		{[]string{"-count", "0"}, "-count 0"},
		{[]string{"-longest", "0s"}, "-longest 0s"},
		{[]string{"-colour"}, "colour"},
		{[]string{"3"}, `"3"`},
	} {
		var out, complaints bytes.Buffer
		if status := run(tc.args, &out, &complaints); status != exitUsage || !strings.Contains(complaints.String(), tc.text) || out.Len() > 0 {
			t.Errorf("%q: status %d, %q and %q, want %d and %q", tc.args, status, out.String(), complaints.String(), exitUsage, tc.text)
		}
	}
}

func TestHelpIsAnAnswer(t *testing.T) {
	var out, complaints bytes.Buffer
	if status := run([]string{"-help"}, &out, &complaints); status != 0 || out.String() != usage || complaints.Len() > 0 {
		t.Errorf("status %d, %q and %q", status, out.String(), complaints.String())
	}
}

func TestDrawIsTheSeeds(t *testing.T) {
	c := campaign{seed: 7, longest: 3 * time.Second}
	var draws, again []power
	reverts, atWrite, all := 0, 0, 0
	for number := 1; number <= 1000; number++ {
		p, _ := c.draw(number)
		draws = append(draws, p)
		q, _ := c.draw(number)
		again = append(again, q)
		if p.after < 0 || p.after >= c.longest || p.inRevert && p.after >= revertLongest || p.luck < 0 || p.luck >= 1 || p.writes < 0 {
			t.Errorf("cut %d: %+v", number, p)
		}
		for count, yes := range map[*int]bool{&reverts: p.inRevert, &atWrite: p.writes > 0, &all: p.luck == 0} {
			if yes {
				*count++
			}
		}
	}
	if diff := cmp.Diff(draws, again, cmp.AllowUnexported(power{})); diff != "" {
		t.Errorf("the same seed draws other cuts (-first +second):\n%s", diff)
	}
	if draws[0].inRevert {
		t.Error("the first cut is in a revert, when there is nothing to undo")
	}
	// 200, 500 and 500, within five standard deviations.
	for name, count := range map[string][2]int{"in revert": {reverts, 200}, "at a write": {atWrite, 500}, "lose all": {all, 500}} {
		if difference := count[0] - count[1]; difference < -80 || difference > 80 {
			t.Errorf("%s: %d of 1000, want about %d", name, count[0], count[1])
		}
	}
}

func TestReportCountsEachCutOnce(t *testing.T) {
	var out bytes.Buffer
	c := campaign{out: &out}
	// What the first boot found comes from no cut.
	c.done(&cutLine{found: &event.Found{}}, 0)
	c.interrupted(&cutLine{
		number: 1, power: power{after: 1500 * time.Millisecond}, disk: disk.Stats{Lost: 3},
		found: &event.Found{Runs: []event.Run{{Open: []string{"a", "b"}, Torn: true}, {}}, Files: []string{"file"}},
	})
	c.done(&cutLine{
		number: 2, power: power{inRevert: true, after: 20 * time.Millisecond, writes: 4, luck: 0.5}, disk: disk.Stats{Lost: 1, Kept: 2},
		found: &event.Found{Runs: []event.Run{{Open: []string{"a"}}}, Unfinished: []string{".new-1"}},
	}, 1)
	want := totals{
		cuts: 2, inRevert: 1, interrupted: 1, openCuts: 2, open: 3, undone: 1, torn: 1,
		files: 1, unfinished: 1, survived: 1, lostSectors: 4, keptSectors: 2, loseAlls: 1,
	}
	if diff := cmp.Diff(want, c.totals, cmp.AllowUnexported(totals{})); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "+1.500s ") || !strings.Contains(lines[0], "2 records open, 1 torn") ||
		!strings.Contains(lines[1], "revert +0.020s+4w lost   1 of   3 sectors") || !strings.Contains(lines[1], "undone 1, nothing left") {
		t.Errorf("printed\n%s", out.String())
	}
}

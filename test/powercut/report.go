package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"faultline.dev/faultline/test/powercut/internal/disk"
	"faultline.dev/faultline/test/powercut/internal/event"
)

// cutLine is a cut, and what the boot after it found.
type cutLine struct {
	number int
	power  power
	disk   disk.Stats
	found  *event.Found
}

// totals are sums over the cuts.
type totals struct {
	cuts, inRevert, interrupted        int
	openCuts, open, undone, torn       int
	files, settings, unfinished        int
	survived                           int
	lostSectors, keptSectors, loseAlls int
}

// done prints the line of a cut that was undone after it. The first boot has no cut
// before it.
func (c *campaign) done(l *cutLine, undone int) {
	if l.number == 0 {
		return
	}
	c.print(l, fmt.Sprintf("undone %d, nothing left", undone))
	c.totals.undone += undone
}

// interrupted prints the line of a cut whose undoing was cut too.
func (c *campaign) interrupted(l *cutLine) {
	if l.number == 0 {
		return
	}
	c.print(l, "power cut again while this was undone")
	c.totals.interrupted++
}

func (c *campaign) print(l *cutLine, after string) {
	where := "load"
	if l.power.inRevert {
		where = "revert"
		c.totals.inRevert++
	}
	open, torn := 0, 0
	for _, run := range l.found.Runs {
		open += len(run.Open)
		if run.Torn {
			torn++
		}
	}
	t := &c.totals
	t.cuts++
	t.open += open
	t.torn += torn
	t.files += len(l.found.Files)
	t.settings += len(l.found.Settings)
	t.unfinished += len(l.found.Unfinished)
	t.lostSectors += l.disk.Lost
	t.keptSectors += l.disk.Kept
	if open > 0 {
		t.openCuts++
	}
	if len(l.found.Files)+len(l.found.Settings) > 0 {
		t.survived++
	}
	if l.power.luck == 0 {
		t.loseAlls++
	}
	when := fmt.Sprintf("+%.3fs", l.power.after.Seconds())
	if l.power.writes > 0 {
		when += fmt.Sprintf("+%dw", l.power.writes)
	}
	fmt.Fprintf(c.out, "cut %2d  %6s %-10s lost %3d of %3d sectors  found %d runs, %2d records open, %d torn, %d unfinished; survived %d files, %d settings  %s\n",
		l.number, where, when, l.disk.Lost, l.disk.Lost+l.disk.Kept,
		len(l.found.Runs), open, torn, len(l.found.Unfinished), len(l.found.Files), len(l.found.Settings), after)
}

func (t totals) print(out io.Writer) {
	fmt.Fprintf(out, `powercut: %d cuts, after each everything was undone
  cuts in the middle of a revert          %d (%d of them before it was done)
  cuts with records open                  %d, with %d records; %d closed by reverts that were not cut
  last records that were torn             %d
  cuts after which something had survived %d: %d files, %d settings, counted after each cut
  runs half made or half removed          %d
  sectors lost                            %d, and %d kept that were not flushed; %d disks lost all
`, t.cuts, t.inRevert, t.interrupted, t.openCuts, t.open, t.undone, t.torn, t.survived, t.files, t.settings,
		t.unfinished, t.lostSectors, t.keptSectors, t.loseAlls)
}

// explain prints all that is known of a failure.
func (c *campaign) explain(l cutLine, found *event.Found, b *boot) {
	fmt.Fprintf(c.out, "\nFAILED after cut %d (seed %d, %+v, %+v)\n",
		l.number, c.seed, l.power, l.disk)
	if found != nil {
		for _, name := range found.Files {
			fmt.Fprintf(c.out, "  survived: file %s\n", name)
		}
		for _, text := range found.Settings {
			fmt.Fprintf(c.out, "  survived: %s\n", text)
		}
		for _, name := range found.Unfinished {
			fmt.Fprintf(c.out, "  unfinished: %s\n", name)
		}
		for _, run := range found.Runs {
			fmt.Fprintf(c.out, "  %s: %d open, torn: %v %s\n", run.Dir, len(run.Open), run.Torn, run.Error)
			fmt.Fprintf(c.out, "    %s\n", strings.ReplaceAll(strings.TrimSpace(string(run.Journal)), "\n", "\n    "))
		}
	}
	fmt.Fprintf(c.out, "--- standard error of the guest ---\n%s", b.complaints.Bytes())
	if text, err := os.ReadFile(b.console); err == nil {
		fmt.Fprintf(c.out, "--- its console ---\n%s", text)
	}
	fmt.Fprintf(c.out, "---\nThe disk as the cut left it: %s; after this boot: %s\n", c.asCut(), c.medium())
}

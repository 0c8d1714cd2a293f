//go:build linux && privileged

package engine_test

import (
	"flag"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/failpoint"
)

// lives is a machine on which runs begin, die, are frozen, asked to end,
// reverted by processes that die too, and reverted again, in any order.
type lives struct {
	*arena
	runs []*exec.Cmd
}

// TestLives goes through random sequences; FAULTLINE_LIVES says how many.
func TestLives(t *testing.T) {
	a := newArena(t)
	// Real processes do not do the same again: shrinking is of no use.
	for name, value := range map[string]string{
		"rapid.checks": strconv.Itoa(count(2, "FAULTLINE_LIVES")), "rapid.steps": "15", "rapid.shrinktime": "1s", "rapid.nofailfile": "true",
	} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		l := &lives{arena: a}
		t.Repeat(rapid.StateMachineActions(l))
		l.end(t)
	})
}

func (l *lives) moment(t *rapid.T, label string) string {
	moments := append([]failpoint.Name{""}, failpoint.All...)
	return string(rapid.SampledFrom(moments).Draw(t, label))
}

// Run begins a run, of which some die by themselves, and some are refused.
func (l *lives) Run(t *rapid.T) {
	if len(l.runs) >= 3 {
		t.Skip("enough")
	}
	s := rapid.SampledFrom(l.scenarios).Draw(t, "scenario")
	t.Log("run", s.name)
	l.runs = append(l.runs, l.startScenario(s, l.moment(t, "dies at")+","+l.moment(t, "or at")))
}

func (l *lives) one(t *rapid.T) *exec.Cmd {
	if len(l.runs) == 0 {
		t.Skip("nothing runs")
	}
	return l.runs[rapid.IntRange(0, len(l.runs)-1).Draw(t, "which")]
}

// Kill ends a run with SIGKILL.
func (l *lives) Kill(t *rapid.T) {
	cmd := l.one(t)
	_ = cmd.Process.Kill()
	l.gone(cmd)
}

// Stop asks a run to end and waits.
func (l *lives) Stop(t *rapid.T) {
	cmd := l.one(t)
	_ = cmd.Process.Signal(syscall.SIGCONT)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	l.gone(cmd)
}

// Freeze stops a run in its tracks; Kill, Stop or Thaw come some day.
func (l *lives) Freeze(t *rapid.T) { _ = l.one(t).Process.Signal(syscall.SIGSTOP) }

// Thaw lets a run go on.
func (l *lives) Thaw(t *rapid.T) { _ = l.one(t).Process.Signal(syscall.SIGCONT) }

// Guards kills every guard.
func (l *lives) Guards(*rapid.T) { l.killGuards() }

// Await waits for the end of a run.
func (l *lives) Await(t *rapid.T) {
	cmd := l.one(t)
	_ = cmd.Process.Signal(syscall.SIGCONT)
	l.gone(cmd)
}

func (l *lives) gone(cmd *exec.Cmd) {
	_ = cmd.Wait()
	l.runs = slices.DeleteFunc(l.runs, func(c *exec.Cmd) bool { return c == cmd })
}

// Revert lets a process revert that may die.
func (l *lives) Revert(t *rapid.T) {
	killed(l.start(l.moment(t, "dies at"), "revert", l.engine.StateDir))
}

// Check holds after every action: what is not undone can be read and undone.
func (l *lives) Check(t *rapid.T) {
	runs, err := journal.List(l.engine.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		if run.Err != nil {
			t.Fatalf("run %s: %v", run.ID, run.Err)
		}
		for _, open := range run.Open {
			if open.GetError() != "" {
				t.Fatalf("run %s: %s: %s", run.ID, open.GetDescription(), open.GetError())
			}
		}
	}
	if len(l.runs) > 0 || len(l.guards()) > 0 {
		return
	}
	report, err := journal.Revert(l.t.Context(), l.engine.StateDir, faults.DecodeUndo)
	if err != nil || len(report.GetFailed()) > 0 {
		t.Fatalf("revert: %v, %v", report, err)
	}
}

// end lets everything come to its end: nothing is left.
func (l *lives) end(t *rapid.T) {
	for len(l.runs) > 0 {
		_ = l.runs[0].Process.Signal(syscall.SIGCONT)
		l.gone(l.runs[0])
	}
	if err := l.guardless(); err != nil {
		t.Fatal(err)
	}
	if err := l.clean(); err != nil {
		t.Fatal(err)
	}
}

package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"faultline.dev/faultline/faults/fault"
)

// volatileUndo is gone with the boot; undoing it is always wrong afterwards.
type volatileUndo struct{ fileUndo }

func (volatileUndo) Kind() string   { return "test-volatile" }
func (volatileUndo) Survives() bool { return false }

func decodeBoth(kind string, data []byte) (fault.Undo, error) {
	if kind == (volatileUndo{}).Kind() {
		var u volatileUndo
		return u, json.Unmarshal(data, &u)
	}
	return decode(kind, data)
}

func TestOnlyWhatSurvivesIsUndoneAfterAReboot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	b.do(j, "file")
	volatile := volatileUndo{fileUndo{Path: filepath.Join(b.dir, "volatile"), Log: b.log}}
	if _, err := j.Record(volatile); err != nil {
		t.Fatal(err)
	}
	abandon(t, j)
	path := filepath.Join(j.Dir(), journalName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header, rest, _ := bytes.Cut(text, []byte("\n"))
	r, err := parseLine(header)
	if err != nil {
		t.Fatal(err)
	}
	if r.Boot == "" || r.Boot != bootID() || r.BootTime == 0 {
		t.Errorf("the run is of boot %q, %d ns; this is %q", r.Boot, r.BootTime, bootID())
	}
	r.Boot = "b2a3e4d6-0000-4000-8000-000000000000"
	line, err := r.line()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(line, rest...), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := Revert(t.Context(), b.state, decodeBoth)
	if err != nil || len(report.Undone) != 2 || len(report.Failed) != 0 {
		t.Errorf("report %v, error %v", report, err)
	}
	b.wantUndone("file")
	b.wantEmpty()
}

func TestJournalOfALongRunStaysShort(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	b.do(j, "stays")
	stuck := &stuckUndo{fileUndo{Path: filepath.Join(b.dir, "stuck"), Log: b.log}}
	done, err := j.Record(stuck)
	if err != nil {
		t.Fatal(err)
	}
	if err := done.Undo(t.Context()); err == nil {
		t.Fatal("the undo that can't be done was done")
	}
	const times = 3*compactAfter + 5
	for n := range times {
		if err := b.do(j, fmt.Sprint(n)).Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Err(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(j.Dir(), journalName))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines > 2*compactAfter {
		t.Errorf("%d lines after %d undos", lines, times)
	}
	abandon(t, j)
	run := b.list()[0]
	if run.Name != "name of r1" || run.Err != nil || len(run.Open) != 2 || run.Open[1].Error != "stuck" {
		t.Errorf("run %+v", run)
	}
	if report := b.revert(); len(report.Undone) != 2 {
		t.Errorf("report %v", report)
	}
	b.wantEmpty()
}

// stuckUndo can't be done by the process that recorded it.
type stuckUndo struct{ fileUndo }

func (*stuckUndo) Undo(context.Context) error { return errors.New("stuck") }

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// fileUndo removes a file: a real thing to undo, and one that can be done
// twice.
type fileUndo struct {
	Path string
	// Log gets a line for each call.
	Log string
}

func (u fileUndo) Kind() string     { return "test-file" }
func (u fileUndo) Describe() string { return "file " + filepath.Base(u.Path) }
func (u fileUndo) Survives() bool   { return true }

func (u fileUndo) Undo(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.OpenFile(u.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintln(f, filepath.Base(u.Path))
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Remove(u.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func decode(kind string, data []byte) (fault.Undo, error) {
	if kind != (fileUndo{}).Kind() {
		return nil, fmt.Errorf("kind %q is not known", kind)
	}
	var u fileUndo
	err := json.Unmarshal(data, &u)
	return u, err
}

// bench is a directory with things to undo.
type bench struct {
	t     *testing.T
	state string
	dir   string
	log   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	return &bench{t: t, state: filepath.Join(dir, "lib", "state"), dir: dir, log: filepath.Join(dir, "log")}
}

func (b *bench) create(id string) *Journal {
	b.t.Helper()
	j, err := Create(b.state, id, "name of "+id)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = j.Close() })
	return j
}

// do records the undo of a file and makes the file.
func (b *bench) do(j *Journal, name string) fault.Undone {
	b.t.Helper()
	u := fileUndo{Path: filepath.Join(b.dir, name), Log: b.log}
	done, err := j.For("loss").Record(u)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(u.Path, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return done
}

// dead makes a run as a killed process leaves it: with its files and without
// its lock.
func (b *bench) dead(id string, names ...string) string {
	b.t.Helper()
	j := b.create(id)
	for _, name := range names {
		b.do(j, name)
	}
	abandon(b.t, j)
	return j.Dir()
}

// abandon lets go of a journal as the end of the process does.
func abandon(t *testing.T, j *Journal) {
	t.Helper()
	if err := errors.Join(j.f.Close(), j.lock.release()); err != nil {
		t.Fatal(err)
	}
	j.closed = true
}

func (b *bench) list() []Run {
	b.t.Helper()
	runs, err := List(b.state)
	if err != nil {
		b.t.Fatal(err)
	}
	return runs
}

func (b *bench) revert() *v1.RevertReport {
	b.t.Helper()
	report, err := Revert(b.t.Context(), b.state, decode)
	if err != nil {
		b.t.Fatal(err)
	}
	return report
}

// undone returns the names of the files that were undone, in order.
func (b *bench) undone() []string {
	b.t.Helper()
	text, err := os.ReadFile(b.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

func (b *bench) wantUndone(names ...string) {
	b.t.Helper()
	if diff := cmp.Diff(names, b.undone(), cmpopts.EquateEmpty()); diff != "" {
		b.t.Errorf("undone (-want +got):\n%s", diff)
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(b.dir, name)); !errors.Is(err, os.ErrNotExist) {
			b.t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func (b *bench) wantEmpty() {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.state, runsName))
	if err != nil || len(entries) != 0 {
		b.t.Errorf("runs directory: %v, %v", entries, err)
	}
}

func TestRunThatUndoesEverythingLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	one, two := b.do(j, "one"), b.do(j, "two")
	for _, done := range []fault.Undone{two, one, one} { // a second time does nothing
		if err := done.Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.wantUndone("two", "one")
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	b.wantEmpty()
}

func TestListShowsALiveRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	b.do(j, "one")
	status := &v1.RunStatus{RunId: "r1", Phase: "ACTIVE", Remaining: durationpb.New(3 * time.Second)}
	for range 2 {
		if err := j.WriteStatus(status); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // listing must not cost the lock
		runs := b.list()
		if len(runs) != 1 {
			t.Fatalf("%d runs", len(runs))
		}
		run := runs[0]
		if run.ID != "r1" || run.Name != "name of r1" || !run.Alive || run.PID != os.Getpid() || run.Torn || run.Err != nil || run.StartTime.IsZero() {
			t.Errorf("run %+v", run)
		}
		if diff := cmp.Diff(status, run.Status, protocmp.Transform()); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		want := []*v1.Remnant{{RunId: "r1", Fault: "loss", Kind: "test-file", Description: "file one", OwnerAlive: true}}
		if diff := cmp.Diff(want, run.Open, protocmp.Transform()); diff != "" {
			t.Errorf("open records (-want +got):\n%s", diff)
		}
	}
	if report := b.revert(); len(report.Undone)+len(report.Failed) != 0 {
		t.Errorf("reverted a live run: %v", report)
	}
	b.wantUndone()
}

func TestNothingToListOrRevert(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if runs := b.list(); runs != nil {
		t.Errorf("runs %v", runs)
	}
	if report := b.revert(); len(report.Undone)+len(report.Failed) != 0 {
		t.Errorf("report %v", report)
	}
}

func TestFailedUndoStaysOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	stuck := filepath.Join(b.dir, "stuck")
	done := b.do(j, "stuck")
	// A directory that is not empty takes the file's place.
	if err := errors.Join(os.Remove(stuck), os.MkdirAll(filepath.Join(stuck, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := done.Undo(t.Context()); err == nil || !strings.Contains(err.Error(), "undoing file stuck") {
		t.Errorf("error %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	runs := b.list()
	if len(runs) != 1 || runs[0].Alive || len(runs[0].Open) != 1 || !strings.Contains(runs[0].Open[0].Error, "not empty") {
		t.Fatalf("runs %+v", runs)
	}
	report := b.revert()
	if len(report.Failed) != 1 || !strings.Contains(report.Failed[0].Error, "not empty") || len(report.Undone) != 0 {
		t.Errorf("report %v", report)
	}
	if err := os.Remove(filepath.Join(stuck, "x")); err != nil {
		t.Fatal(err)
	}
	report = b.revert()
	if len(report.Undone) != 1 || report.Undone[0].Error != "" || len(report.Failed) != 0 {
		t.Errorf("report %v", report)
	}
	b.wantEmpty()
}

func TestRevertGoesBackwardsAndOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.dead("r1", "one", "two", "three")
	b.dead("r2", "four", "five")
	two := filepath.Join(b.dir, "two")
	if err := errors.Join(os.Remove(two), os.MkdirAll(filepath.Join(two, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	report := b.revert()
	if len(report.Undone) != 4 || len(report.Failed) != 1 || report.Failed[0].Description != "file two" {
		t.Errorf("report %v", report)
	}
	want := []string{"five", "four", "three", "two", "one"}
	if diff := cmp.Diff(want, b.undone()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	// What is undone is not tried again; what is not, is.
	if err := os.RemoveAll(two); err != nil {
		t.Fatal(err)
	}
	b.revert()
	b.wantUndone(append(want, "two")...)
	b.wantEmpty()
	if report := b.revert(); len(report.Undone)+len(report.Failed) != 0 {
		t.Errorf("third report %v", report)
	}
}

func TestRevertKeepsWhatItCantDecode(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.dead("r1", "one")
	report, err := Revert(t.Context(), b.state, func(kind string, _ []byte) (fault.Undo, error) {
		return nil, fmt.Errorf("a newer version wrote %s", kind)
	})
	if err != nil || len(report.Failed) != 1 || !strings.Contains(report.Failed[0].Error, "a newer version wrote test-file") {
		t.Errorf("report %v, %v", report, err)
	}
	if len(b.list()) != 1 {
		t.Error("the run is gone")
	}
}

func TestRevertStopsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.dead("r1", "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report, err := Revert(ctx, b.state, decode)
	if err != nil || len(report.Failed) != 1 {
		t.Errorf("report %v, %v", report, err)
	}
	b.wantUndone()
	b.revert()
	b.wantUndone("one")
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.create("taken")
	file := filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ state, id, want string }{
		"an id twice":       {b.state, "taken", "exists already"},
		"no id":             {b.state, "", "run id"},
		"a path as id":      {b.state, "../x", "run id"},
		"a hidden id":       {b.state, ".x", "run id"},
		"a file as state":   {file, "r", "not a directory"},
		"a file in between": {filepath.Join(file, "state"), "r", "not a directory"},
	} {
		_, err := Create(tc.state, tc.id, "")
		if !errors.Is(err, ErrUnwritable) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if runs := b.list(); len(runs) != 1 || !runs[0].Alive {
		t.Errorf("runs %+v", runs)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	for dir := j.Dir(); dir != b.dir; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
}

func TestBrokenWritePoisons(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	done := b.do(j, "one")
	// A descriptor that can't be written to stands for a disk that fails.
	good := j.f
	bad, err := os.Open(filepath.Join(j.Dir(), journalName))
	if err != nil {
		t.Fatal(err)
	}
	j.f = bad
	u := fileUndo{Path: filepath.Join(b.dir, "two"), Log: b.log}
	if _, err := j.Record(u); !errors.Is(err, ErrUnwritable) {
		t.Fatalf("error %v", err)
	}
	// The disk is well again, and must not be believed.
	j.f = good
	if err := bad.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Record(u); !errors.Is(err, ErrUnwritable) || !strings.Contains(err.Error(), "earlier") || j.Err() == nil {
		t.Fatalf("error %v", err)
	}
	// Undoing works all the same, and then nothing needs the journal.
	if err := done.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b.wantUndone("one")
	b.wantEmpty()
}

type unmarshalable struct {
	fileUndo
	F func()
}

func TestUndoThatCantBeStoredIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.create("r1")
	if _, err := j.Record(unmarshalable{F: func() {}}); !errors.Is(err, ErrUnwritable) {
		t.Errorf("error %v", err)
	}
	b.do(j, "one") // which poisons nothing
}

func TestLeftoversOfCreateAndCloseAreSwept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.dead("r1", "one")
	runs := filepath.Join(b.state, runsName)
	now := time.Now()
	for name, made := range map[string]time.Time{
		newPrefix + bootID() + "-now":   now, // kept, as what is not ours
		"..strange":                     now,
		newPrefix + bootID() + "-old":   now.Add(-time.Hour),
		newPrefix + bootID() + "-later": now.Add(time.Hour), // the clock was set back
		newPrefix + "another-boot":      now,
		donePrefix + "r0":               now,
	} {
		dir := filepath.Join(runs, name)
		if err := os.MkdirAll(filepath.Join(dir, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, made, made); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.list()); n != 1 {
		t.Errorf("%d runs", n)
	}
	b.revert()
	entries, err := os.ReadDir(runs)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// Several revert at once: each removes its own, and sweeps what others are removing.
func TestRemovingAndSweepingAtOnce(t *testing.T) {
	t.Parallel()
	runs := t.TempDir()
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		var errs []error
		for ctx.Err() == nil {
			errs = append(errs, sweep(runs))
		}
		ended <- errors.Join(errs...)
	}()
	for i := range 500 {
		id := fmt.Sprint("r", i)
		if err := os.MkdirAll(filepath.Join(runs, id, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		lock, err := acquire(filepath.Join(runs, id, lockName))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(removeRun(runs, id), lock.release()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(runs); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

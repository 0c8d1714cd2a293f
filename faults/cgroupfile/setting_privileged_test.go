//go:build linux && privileged

package cgroupfile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/pressure"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) { env.Main(m, nil) }

// spec is a fault whose file may hold many values.
func spec() *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_PidsPressure{PidsPressure: &v1.PidsPressure{Limit: "100"}}}
}

const file = cgroupfile.PidsMax

func newTarget(t *testing.T) fault.Cgroup {
	t.Helper()
	return env.Child(t, env.Controlled(t, kernel.PidsController), "target")
}

// stored is an undo as another process gets it.
func stored(t *testing.T, undo fault.Undo) fault.Undo {
	t.Helper()
	data, err := json.Marshal(undo)
	if err != nil {
		t.Fatal(err)
	}
	again, err := faults.DecodeUndo(undo.Kind(), data)
	if err != nil {
		t.Fatal(err)
	}
	if again != undo {
		t.Fatalf("stored %+v, read %+v", undo, again)
	}
	return again
}

func TestAnotherProcessUndoes(t *testing.T) {
	target := newTarget(t)
	env.WriteFile(t, target, file, "200")
	i := env.Inject(t, pressure.Pids(), spec(), nil, target)
	open := i.Recorder.Open()
	if len(open) != 1 || open[0].Survives() {
		t.Fatalf("records %+v", open)
	}
	undo := stored(t, open[0])
	for range 2 {
		if err := undo.Undo(context.Background()); err != nil {
			t.Error(err)
		}
		if got := env.ReadFile(t, target, file); got != "200" {
			t.Errorf("holds %q", got)
		}
	}
}

// The record is enough where the hierarchy is mounted elsewhere.
func TestUndoFindsTheCgroupByItsID(t *testing.T) {
	target := newTarget(t)
	i := env.Inject(t, pressure.Pids(), spec(), nil, target)
	setting := i.Recorder.Open()[0].(cgroupfile.Setting)
	setting.Cgroup.Path = "/host" + setting.Cgroup.Path
	if err := setting.Undo(context.Background()); err != nil {
		t.Error(err)
	}
	if got := env.ReadFile(t, target, file); got != "max" {
		t.Errorf("holds %q", got)
	}
}

func TestWhatSomebodyElseWroteIsKept(t *testing.T) {
	target := newTarget(t)
	var log bytes.Buffer
	i := env.Inject(t, pressure.Pids(), spec(), slog.New(slog.NewTextHandler(&log, nil)), target)
	env.WriteFile(t, target, file, "77")
	if err := i.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), `from our "100" to "77"`) {
		t.Errorf("error %v", err)
	}
	if err := i.Refresh(t.Context()); err != nil {
		t.Errorf("said twice: %v", err)
	}
	i.End()
	if got := env.ReadFile(t, target, file); got != "77" {
		t.Errorf("holds %q", got)
	}
	if !strings.Contains(log.String(), "a value is not restored") {
		t.Errorf("log %q", log.String())
	}
}

func TestWhatIsLeftBehindIsADifference(t *testing.T) {
	target := newTarget(t)
	i := env.Inject(t, pressure.Pids(), spec(), nil, target)
	differences, err := i.Recorder.Differences()
	if err != nil || len(differences) != 1 || !strings.Contains(differences[0], `left behind: it holds "100", and held "max" before`) {
		t.Errorf("differences %q, %v", differences, err)
	}
}

func TestRemovedCgroupHasNothingToUndo(t *testing.T) {
	target := newTarget(t)
	i := env.Inject(t, pressure.Pids(), spec(), nil, target)
	undo := i.Recorder.Open()[0]
	if err := syscall.Rmdir(target.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Counters(); err != nil {
		t.Errorf("counters: %v", err)
	}
	if err := i.Refresh(t.Context()); !errors.Is(err, fault.ErrGone) {
		t.Errorf("refreshing: %v", err)
	}
	// Another one takes its place, with what could be taken for our value.
	if err := os.Mkdir(target.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	env.WriteFile(t, target, file, "100")
	if err := stored(t, undo).Undo(context.Background()); err != nil {
		t.Error(err)
	}
	i.End()
	if got := env.ReadFile(t, target, file); got != "100" {
		t.Errorf("another cgroup holds %q", got)
	}
}

func TestDisabledControllerHasNothingToUndo(t *testing.T) {
	parent := env.Controlled(t, kernel.PidsController)
	target := env.Child(t, parent, "target")
	i := env.Inject(t, pressure.Pids(), spec(), nil, target)
	env.WriteFile(t, parent, "cgroup.subtree_control", "-pids")
	i.End()
}

func TestNothingIsWrittenBeforeTheStart(t *testing.T) {
	target := newTarget(t)
	plan, err := env.Plan(t, pressure.Pids(), spec(), nil, target)
	if err != nil {
		t.Fatal(err)
	}
	recorder := &env.Recorder{}
	injection, err := plan.Inject(t.Context(), recorder)
	if err != nil {
		t.Fatal(err)
	}
	if got := env.ReadFile(t, target, file); got != "max" || len(recorder.Open()) != 1 {
		t.Errorf("holds %q, records %v", got, recorder.Open())
	}
	// Somebody writes between the record and the start.
	env.WriteFile(t, target, file, "500")
	if err := injection.Start(fault.Lease{Deadline: fault.BootTime() + uint64(time.Minute)}); err == nil {
		t.Error("started on a record that is not true any more")
	}
	if err := injection.Revert(context.Background()); err != nil || len(recorder.Open()) > 0 {
		t.Errorf("reverting: %v, records %v", err, recorder.Open())
	}
	if got := env.ReadFile(t, target, file); got != "500" {
		t.Errorf("holds %q", got)
	}
}

func TestOneOfManyCannotStart(t *testing.T) {
	parent := env.Controlled(t, kernel.PidsController)
	var targets []fault.Cgroup
	for _, name := range []string{"a", "b", "c"} {
		targets = append(targets, env.Child(t, parent, name))
	}
	plan, err := env.Plan(t, pressure.Pids(), spec(), nil, targets...)
	if err != nil {
		t.Fatal(err)
	}
	recorder := &env.Recorder{}
	injection, err := plan.Inject(t.Context(), recorder)
	if err != nil || len(recorder.Open()) != 3 {
		t.Fatalf("%v, records %v", err, recorder.Open())
	}
	if err := syscall.Rmdir(targets[1].Path); err != nil {
		t.Fatal(err)
	}
	if err := injection.Start(fault.Lease{Deadline: fault.BootTime() + uint64(time.Minute)}); !errors.Is(err, fault.ErrGone) {
		t.Errorf("error %v", err)
	}
	if err := injection.Revert(context.Background()); err != nil || len(recorder.Open()) > 0 {
		t.Errorf("reverting: %v, records %v", err, recorder.Open())
	}
	for _, c := range []fault.Cgroup{targets[0], targets[2]} {
		if got := env.ReadFile(t, c, file); got != "max" {
			t.Errorf("%s holds %q", c.Path, got)
		}
	}
}

func TestRecordThatCannotBeWritten(t *testing.T) {
	target := newTarget(t)
	plan, err := env.Plan(t, pressure.Pids(), spec(), nil, target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Inject(t.Context(), &fullDisk{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if got := env.ReadFile(t, target, file); got != "max" {
		t.Errorf("holds %q", got)
	}
}

// fullDisk takes no record.
type fullDisk struct{ env.Recorder }

func (*fullDisk) Record(fault.Undo) (fault.Undone, error) { return nil, syscall.ENOSPC }

package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// Decode makes an undo of its kind and JSON as they stand in the journal.
type Decode func(kind string, data []byte) (fault.Undo, error)

// Revert undoes what dead runs left open, the newest first, and removes the
// runs of which nothing is left. It goes on after errors; the report names
// what was undone and what was not, and the error is only about what the
// report can't say: runs that could not be listed, locked or removed. Runs
// that are alive are left alone. It may be called any number of times.
func Revert(ctx context.Context, stateDir string, decode Decode) (*v1.RevertReport, error) {
	report := &v1.RevertReport{}
	runs, err := List(stateDir)
	if err != nil {
		return report, err
	}
	// Later runs may stand on what earlier ones left.
	slices.SortStableFunc(runs, func(a, b Run) int { return b.StartTime.Compare(a.StartTime) })
	var errs []error
	for _, run := range runs {
		if run.Alive {
			continue
		}
		if err := revertRun(ctx, run, decode, report); err != nil {
			errs = append(errs, fmt.Errorf("reverting run %s: %w", run.ID, err))
		}
	}
	errs = append(errs, sweep(filepath.Join(stateDir, runsName)))
	return report, errors.Join(errs...)
}

func revertRun(ctx context.Context, run Run, decode Decode, report *v1.RevertReport) (err error) {
	lock, err := acquire(run.Dir)
	if err != nil {
		if passed(err) {
			return nil // another process was faster
		}
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()

	path := filepath.Join(run.Dir, journalName)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the journal: %w", err)
	}
	c := read(b)
	runs := filepath.Dir(run.Dir)
	j := &Journal{runs: runs, id: run.ID, seq: c.last}
	// What is undone is noted if it can be; a full or read-only disk must
	// not keep anything from being undone.
	if j.f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		j.poison = err
	} else {
		defer j.f.Close()
		// A record appended to a torn line would be lost with it.
		if c.torn {
			j.poison = j.f.Truncate(c.good)
		}
	}
	failed := len(report.Failed)
	for _, o := range slices.Backward(c.open) {
		r := o.remnant(run.ID, false)
		if err := undo(ctx, o, decode); err != nil {
			r.Error = err.Error()
			report.Failed = append(report.Failed, r)
			_ = j.append(record{Type: typeFailed, Seq: o.Seq, Error: r.Error})
			continue
		}
		r.Error = ""
		report.Undone = append(report.Undone, r)
		_ = j.append(record{Type: typeDone, Seq: o.Seq})
	}
	for _, line := range c.corrupt {
		report.Failed = append(report.Failed, &v1.Remnant{
			RunId:       run.ID,
			Kind:        "journal",
			Description: "a record that can't be read any more; when nothing of it is left, remove " + run.Dir,
			Error:       fmt.Sprintf("%s: %v", path, line),
		})
	}
	if len(report.Failed) > failed {
		return nil
	}
	return removeRun(runs, run.ID)
}

func undo(ctx context.Context, o openRecord, decode Decode) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u, err := decode(o.Kind, o.Data)
	if err != nil {
		return fmt.Errorf("decoding the undo of kind %s: %w", o.Kind, err)
	}
	return u.Undo(ctx)
}

// sweepAge is how old a directory must be that was left while it was made: in
// the moment before it is locked nothing else tells it from one of a run that
// is just starting.
const sweepAge = time.Minute

// sweep removes directories that a process left while it made or removed
// them.
func sweep(runs string) error {
	entries, err := os.ReadDir(runs)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		isNew := strings.HasPrefix(e.Name(), newPrefix)
		if !isNew && !strings.HasPrefix(e.Name(), donePrefix) {
			continue
		}
		st, err := e.Info()
		if err != nil || isNew && time.Since(st.ModTime()) < sweepAge {
			continue
		}
		dir := filepath.Join(runs, e.Name())
		lock, err := acquire(dir)
		if err != nil {
			if !passed(err) {
				errs = append(errs, err)
			}
			continue
		}
		errs = append(errs, os.RemoveAll(dir), lock.release())
	}
	return errors.Join(errs...)
}

// passed tells that another process holds or has removed the directory.
func passed(err error) bool {
	return errors.Is(err, ErrInUse) || errors.Is(err, ErrNotRunning) || errors.Is(err, os.ErrNotExist)
}

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
// that are alive are left alone, and so are those whose id is in keep. It may be
// called any number of times.
func Revert(ctx context.Context, stateDir string, decode Decode, keep ...string) (*v1.RevertReport, error) {
	report := &v1.RevertReport{}
	runs, err := List(stateDir)
	if err != nil {
		return report, err
	}
	// Later runs may stand on what earlier ones left.
	slices.SortStableFunc(runs, newer)
	var errs []error
	for _, run := range runs {
		if run.Alive || slices.Contains(keep, run.ID) {
			continue
		}
		if err := RevertRun(ctx, run, decode, report); err != nil && !passed(err) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, sweep(filepath.Join(stateDir, runsName)))
	return report, errors.Join(errs...)
}

// RevertRun is Revert for one run; what it did is added to the report. The
// error matches [ErrInUse] while another process holds the run, and
// [ErrNotRunning] or os.ErrNotExist when the run is gone.
func RevertRun(ctx context.Context, run Run, decode Decode, report *v1.RevertReport) (err error) {
	j, left, err := Open(run, decode)
	if err != nil {
		return fmt.Errorf("reverting run %s: %w", run.ID, err)
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	for _, l := range slices.Backward(left) {
		r := l.remnant(run.ID, false)
		err := ctx.Err()
		if err == nil {
			err = l.Undone.Undo(ctx)
		}
		if err != nil {
			r.Error = err.Error()
			report.Failed = append(report.Failed, r)
			continue
		}
		r.Error = ""
		report.Undone = append(report.Undone, r)
	}
	for _, line := range j.corrupt {
		report.Failed = append(report.Failed, &v1.Remnant{
			RunId:       run.ID,
			Kind:        "journal",
			Description: "a record that can't be read any more; when nothing of it is left, remove " + run.Dir,
			Error:       fmt.Sprintf("%s: %v", filepath.Join(run.Dir, journalName), line),
		})
	}
	return nil
}

// Left is an open record of a run that was taken over.
type Left struct {
	openRecord
	fault.Open
}

// Open takes over a run whose process has ended and returns what it left open,
// oldest first. Its errors are those of [RevertRun]. A journal on a full or
// read-only disk is opened too: nothing must keep from undoing; [Journal.Err]
// tells that nothing can be recorded in it.
func Open(run Run, decode Decode) (_ *Journal, left []Left, err error) {
	j := &Journal{runs: filepath.Dir(run.Dir), id: run.ID, open: map[uint64]openRecord{}}
	if j.lock, err = acquire(filepath.Join(run.Dir, lockName)); err != nil {
		return nil, nil, err
	}
	path := filepath.Join(run.Dir, journalName)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, errors.Join(fmt.Errorf("reading the journal: %w", err), j.lock.release())
	}
	c := read(b)
	j.header, j.seq, j.corrupt = c.run, c.last, c.corrupt
	if j.f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		j.f, j.poison = nil, err
	} else if c.torn {
		// A record appended to a torn line would be lost with it.
		j.poison = j.f.Truncate(c.good)
	}
	past := c.run.past()
	for _, o := range c.open {
		j.open[o.Seq] = o
		e := &entry{j: j, seq: o.Seq}
		undo, err := decode(o.Kind, o.Data)
		switch {
		case err != nil:
			e.undo = func(context.Context) error { return err }
		case past && !undo.Survives():
			// It went with the boot, and its names may be others' now.
			e.undo = func(context.Context) error { return nil }
		default:
			e.undo = undo.Undo
		}
		left = append(left, Left{o, fault.Open{Undo: undo, Undone: e}})
	}
	return j, left, nil
}

// UndoFault undoes what a fault of a run has open, of a run that another
// process holds and does not attend to. It writes nothing into the journal:
// the holder undoes it again some day, which does no harm.
func UndoFault(ctx context.Context, run Run, faultName string, decode Decode) error {
	b, err := os.ReadFile(filepath.Join(run.Dir, journalName))
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	var errs []error
	for _, o := range slices.Backward(read(b).open) {
		if o.Fault != faultName {
			continue
		}
		undo, err := decode(o.Kind, o.Data)
		if err == nil {
			err = undo.Undo(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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
		if err != nil {
			continue
		}
		// The clock may have been set back.
		age := time.Since(st.ModTime())
		if isNew && age >= 0 && age < sweepAge && strings.HasPrefix(e.Name(), newPrefix+bootID()) {
			continue
		}
		dir := filepath.Join(runs, e.Name())
		lock, err := acquire(filepath.Join(dir, lockName))
		if err != nil {
			if !passed(err) {
				errs = append(errs, err)
			}
			continue
		}
		errs = append(errs, removeAll(dir), lock.release())
	}
	return errors.Join(errs...)
}

// passed tells that another process holds or has removed the directory.
func passed(err error) bool {
	return errors.Is(err, ErrInUse) || errors.Is(err, ErrNotRunning) || errors.Is(err, os.ErrNotExist)
}

// Package journal keeps the write-ahead record of undo steps: whatever the
// kernel does not take back by itself is written down, on stable storage,
// before it is done.
//
// Each run has a directory STATE/runs/RUNID: lock, which the process of the run
// holds locked as long as it lives; journal, the records; and what the run
// tells other processes, such as status.json. STATE/lock is held for the
// moment in which a run is compared with the others and joins them.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

const (
	runsName    = "runs"
	lockName    = "lock"
	journalName = "journal"
	// newPrefix and donePrefix begin the names of directories that are being
	// made or removed; they hold no open record. Behind newPrefix is the boot.
	newPrefix  = ".new-"
	donePrefix = ".done-"
)

var runIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Journal is the journal of a run of this process. It is the Record half of
// [fault.Recorder] and safe for concurrent use.
type Journal struct {
	runs string
	id   string
	lock *lockFile

	mu     sync.Mutex
	f      *os.File
	header record
	seq    uint64
	open   map[uint64]openRecord
	// dead counts the records in the file that are closed.
	dead int
	// poison is the first error of writing. After it nothing is written any
	// more: a second fsync may report success for pages that the first one
	// lost (fsync(2), fsyncgate).
	poison error
	closed bool
	// corrupt are the lines that can't be read, which must be kept for people.
	corrupt []error

	files sync.Mutex
}

// Create makes the journal of a new run in stateDir, which is made when it is
// missing (mode 0700). The run id is 1 to 128 letters, digits, '.', '_', '-'
// and begins with a letter or digit; name is the experiment's. When Create
// returns the journal is on stable storage and locked. Errors match
// [ErrUnwritable].
func Create(stateDir, runID, name string) (*Journal, error) {
	j, err := create(stateDir, runID, name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return j, nil
}

func create(stateDir, runID, name string) (_ *Journal, err error) {
	if !runIDPattern.MatchString(runID) {
		return nil, fmt.Errorf("run id %q: wanted 1 to 128 letters, digits, '.', '_' or '-'", runID)
	}
	runs := filepath.Join(stateDir, runsName)
	if err := makeDirs(runs); err != nil {
		return nil, err
	}
	// The process that made it may have died before it did this.
	if err := syncDir(stateDir); err != nil {
		return nil, err
	}
	dir := filepath.Join(runs, runID)
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("run %s exists already in %s", runID, runs)
	}
	// Nobody must see the directory before it is locked: without a lock the
	// run would count as dead. So it gets its name last.
	tmp, err := os.MkdirTemp(runs, newPrefix+bootID()+"-")
	if err != nil {
		return nil, fmt.Errorf("making the run's directory: %w", err)
	}
	j := &Journal{runs: runs, id: runID, open: map[uint64]openRecord{}}
	defer func() {
		if err == nil {
			return
		}
		if j.f != nil {
			err = errors.Join(err, j.f.Close())
		}
		if j.lock != nil {
			err = errors.Join(err, j.lock.release())
		}
		err = errors.Join(err, os.RemoveAll(tmp))
	}()
	if j.lock, err = acquire(filepath.Join(tmp, lockName)); err != nil {
		return nil, err
	}
	j.f, err = os.OpenFile(filepath.Join(tmp, journalName), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j.header = record{Type: typeRun, RunID: runID, Name: name, Boot: bootID(), BootTime: fault.BootTime()}
	if err := j.append(j.header); err != nil {
		return nil, err
	}
	if err := syncDir(tmp); err != nil {
		return nil, err
	}
	// rename(2) replaces an empty directory only, and a run's is never empty.
	if err := os.Rename(tmp, dir); err != nil {
		return nil, fmt.Errorf("naming the run's directory: %w", err)
	}
	tmp = dir
	if err := syncDir(runs); err != nil {
		return nil, err
	}
	return j, nil
}

// makeDirs is MkdirAll whose directories are on stable storage.
func makeDirs(dir string) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the state directory: %w", err)
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("writing %s to disk: %w", dir, err)
	}
	return nil
}

// Dir is the run's directory.
func (j *Journal) Dir() string { return filepath.Join(j.runs, j.id) }

// Err returns the error that ended writing, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.poison
}

// append writes one record through to the disk.
func (j *Journal) append(r record) error {
	if j.poison != nil {
		return fmt.Errorf("an earlier write did not go through: %w", j.poison)
	}
	if j.closed {
		return errors.New("the journal is closed")
	}
	r.Time = time.Now().UTC()
	line, err := r.line()
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	j.poison = writeThrough(j.f, line)
	return j.poison
}

// writeThrough writes to the file and brings it to stable storage.
func writeThrough(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("writing to %s: %w", f.Name(), err)
	}
	failpoint.Hit(failpoint.RecordWritten)
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s to disk: %w", f.Name(), err)
	}
	return nil
}

// Record writes an undo down as [fault.Recorder] says. The undo is stored as its kind and its
// JSON encoding (encoding/json), which must hold all that it needs. After an
// error, which matches [ErrUnwritable], nothing may be touched; every later
// call ends with one too.
func (j *Journal) Record(u fault.Undo) (fault.Undone, error) {
	return j.record("", u)
}

// For returns a writer whose records carry the name of a fault.
func (j *Journal) For(faultName string) FaultJournal { return FaultJournal{j, faultName} }

// FaultJournal writes the records of one fault.
type FaultJournal struct {
	j     *Journal
	fault string
}

// Record is [Journal.Record].
func (r FaultJournal) Record(u fault.Undo) (fault.Undone, error) { return r.j.record(r.fault, u) }

func (j *Journal) record(faultName string, u fault.Undo) (fault.Undone, error) {
	data, err := json.Marshal(u)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the undo of kind %s: %w", ErrUnwritable, u.Kind(), err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r := record{Type: typeOpen, Seq: j.seq + 1, Fault: faultName, Kind: u.Kind(), Data: data, Describe: u.Describe()}
	if err := j.append(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	j.seq = r.Seq
	j.open[r.Seq] = openRecord{record: r}
	failpoint.Hit(failpoint.Recorded)
	return &entry{j: j, seq: r.Seq, undo: u.Undo}, nil
}

// entry is an open record of a run that this process holds.
type entry struct {
	j   *Journal
	seq uint64

	mu   sync.Mutex
	undo func(context.Context) error
	done bool
}

// Undo implements [fault.Undone]. After a success a further call does nothing.
//
// A closing record that can't be written is no error here: what was recorded
// is undone, and if the process ends before Close, undoing it again does no
// harm. [Journal.Err] tells.
func (e *entry) Undo(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done {
		return nil
	}
	failpoint.Hit(failpoint.Undoing)
	err := e.undo(ctx)
	failpoint.Hit(failpoint.Undone)
	e.j.mu.Lock()
	defer e.j.mu.Unlock()
	o := e.j.open[e.seq]
	if err != nil {
		o.failure = err.Error()
		e.j.open[e.seq] = o
		_ = e.j.append(record{Type: typeFailed, Seq: e.seq, Error: o.failure})
		return fmt.Errorf("undoing %s: %w", o.Describe, err)
	}
	e.done = true
	delete(e.j.open, e.seq)
	_ = e.j.append(record{Type: typeDone, Seq: e.seq})
	failpoint.Hit(failpoint.Noted)
	e.j.dead++
	e.j.compact()
	return nil
}

// Close ends the run: its directory is removed when every record is undone,
// and otherwise kept for [Revert]. The lock is released in both cases.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	failpoint.Hit(failpoint.Closing)
	var errs []error
	if len(j.open) == 0 && len(j.corrupt) == 0 {
		errs = append(errs, removeRun(j.runs, j.id))
	}
	if j.f != nil {
		errs = append(errs, j.f.Close())
	}
	errs = append(errs, j.lock.release())
	return errors.Join(errs...)
}

// removeRun takes a run's directory away at once, whatever is in it; the
// caller holds its lock.
func removeRun(runs, id string) error {
	dir, done := filepath.Join(runs, id), filepath.Join(runs, donePrefix+id)
	if err := os.Rename(dir, done); err != nil {
		return fmt.Errorf("removing run %s: %w", id, err)
	}
	failpoint.Hit(failpoint.Renamed)
	if err := removeAll(done); err != nil {
		return fmt.Errorf("removing run %s: %w", id, err)
	}
	return nil
}

// removeAll is os.RemoveAll of a directory that others may sweep at the same moment:
// one that locks it may make the lock's file again, when everything else is gone.
func removeAll(dir string) (err error) {
	for range sweepersMax {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return err
}

// sweepersMax is how many may meet there.
const sweepersMax = 100

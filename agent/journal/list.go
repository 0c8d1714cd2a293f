package journal

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// Run is a run that has a directory: it is alive, or its process died, or
// something could not be undone.
type Run struct {
	ID   string
	Name string
	Dir  string
	// Alive tells that a process holds the run, by the kernel's word.
	Alive bool
	// PID of that process; 0 when it is in another PID namespace.
	PID int
	// StartTime is zero when the journal does not tell.
	StartTime time.Time
	// Status as written last; nil when there is none.
	Status *v1.RunStatus
	// Open records, oldest first.
	Open []*v1.Remnant
	// Torn tells that the last record was not complete and does not count.
	Torn bool
	// Err holds what could not be read: a corrupt line, an unreadable file.
	Err error

	boot     string
	bootTime uint64
}

// SameBoot tells whether the run began since the machine was booted.
func (r Run) SameBoot() bool { return r.boot != "" && r.boot == bootID() }

// newer orders runs, the newest first. Within a boot the clock of the machine
// does not count: it may have been set.
func newer(a, b Run) int {
	now := bootID()
	switch {
	case a.boot == b.boot:
		return cmp.Compare(b.bootTime, a.bootTime)
	case a.boot == now:
		return -1
	case b.boot == now:
		return 1
	default:
		return b.StartTime.Compare(a.StartTime)
	}
}

// List returns the runs in stateDir by id. It is nil when there are none or
// no such directory. A run that can't be read is in the list, with its Err.
func List(stateDir string) ([]Run, error) {
	runs := filepath.Join(stateDir, runsName)
	entries, err := os.ReadDir(runs)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the runs: %w", err)
	}
	var out []Run
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if run, ok := look(runs, e.Name()); ok {
			out = append(out, run)
		}
	}
	return out, nil
}

// Find returns one run; found is false when it has ended and left nothing.
func Find(stateDir, runID string) (run Run, found bool, err error) {
	if !runIDPattern.MatchString(runID) {
		return Run{}, false, fmt.Errorf("run id %q: %w", runID, os.ErrInvalid)
	}
	run, found = look(filepath.Join(stateDir, runsName), runID)
	return run, found, nil
}

// look reads one run; false when it ended meanwhile.
func look(runs, id string) (Run, bool) {
	run := Run{ID: id, Dir: filepath.Join(runs, id)}
	var errs []error
	// The lock first: a run that ends after this is shown as it was.
	pid, alive, err := holder(run.Dir)
	run.PID, run.Alive = pid, alive
	errs = append(errs, err)

	b, err := os.ReadFile(filepath.Join(run.Dir, journalName))
	if err != nil {
		if _, gone := os.Lstat(run.Dir); errors.Is(gone, os.ErrNotExist) {
			return Run{}, false
		}
		errs = append(errs, fmt.Errorf("reading the journal: %w", err))
	}
	c := read(b)
	run.Name, run.StartTime, run.Torn = c.run.Name, c.run.Time, c.torn
	errs = append(errs, c.corrupt...)
	for _, o := range c.open {
		run.Open = append(run.Open, o.remnant(id, alive))
	}
	run.boot, run.bootTime = c.run.Boot, c.run.BootTime
	run.Status, err = run.readStatus()
	errs = append(errs, err)
	run.Err = errors.Join(errs...)
	return run, true
}

func (o openRecord) remnant(runID string, alive bool) *v1.Remnant {
	return &v1.Remnant{
		RunId:       runID,
		Fault:       o.Fault,
		Kind:        o.Kind,
		Description: o.Describe,
		OwnerAlive:  alive,
		Error:       o.failure,
	}
}

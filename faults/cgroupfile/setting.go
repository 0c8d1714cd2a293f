package cgroupfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

// Setting is a value that a fault writes into a file of a cgroup. It is a
// record that takes it back (fault.Undo).
type Setting struct {
	Cgroup fault.Cgroup `json:"cgroup"`
	File   string       `json:"file"`
	// Before is what the file held, Written what a fault writes there, both as
	// the kernel prints them.
	Before  string `json:"before"`
	Written string `json:"written"`
}

// SettingKind is the name of Setting in the journal.
const SettingKind = "cgroup-file"

// undoTime is how long an undo lets the kernel reclaim memory.
const undoTime = time.Second

// Kind implements fault.Undo.
func (Setting) Kind() string { return SettingKind }

// Describe implements fault.Undo.
func (s Setting) Describe() string {
	return fmt.Sprintf("write %q back to %s of cgroup %s (id %d), if it still holds %q", s.Before, s.File, s.Cgroup.Path, s.Cgroup.ID, s.Written)
}

// Survives implements fault.Undo: no cgroup outlives a reboot.
func (Setting) Survives() bool { return false }

// Undo implements fault.Undo. It leaves alone what somebody else has written
// meanwhile; a cgroup or file that is gone has nothing to undo.
func (s Setting) Undo(context.Context) error {
	err := s.restore()
	if errors.Is(err, fault.ErrGone) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restoring %s of cgroup %s: %w", s.File, s.Cgroup.Path, err)
	}
	return nil
}

func (s Setting) restore() error {
	dir, err := find(s.Cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	// Between this look and the write somebody else's value can be lost: the
	// kernel has no compare-and-write for these files.
	now, err := dir.Read(s.File)
	if err != nil || now != s.Written {
		return err
	}
	if err := dir.write(s.File, s.Before, time.Now().Add(undoTime)); err != nil {
		return err
	}
	now, err = dir.Read(s.File)
	if err == nil && now == s.Written {
		return fmt.Errorf("it still holds %q after %q was written", now, s.Before)
	}
	return err
}

// begin writes the value. The file must hold what it held when the record was
// made.
func (s Setting) begin(limit time.Time) error {
	dir, err := Open(s.Cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	now, err := dir.Read(s.File)
	if err != nil {
		return fmt.Errorf("reading a file of cgroup %s: %w", s.Cgroup.Path, err)
	}
	if now != s.Before {
		return fmt.Errorf("%s of cgroup %s has just been changed by somebody else, from %q to %q", s.File, s.Cgroup.Path, s.Before, now)
	}
	if err := dir.write(s.File, s.Written, limit); err != nil {
		return fmt.Errorf("cgroup %s: %w", s.Cgroup.Path, err)
	}
	failpoint.Hit(failpoint.FileWritten)
	now, err = dir.Read(s.File)
	if err != nil {
		return fmt.Errorf("reading a file of cgroup %s: %w", s.Cgroup.Path, err)
	}
	if now == s.Written {
		return nil
	}
	// The record does not know this value for ours.
	return errors.Join(
		fmt.Errorf("%s of cgroup %s holds %q after %q was written", s.File, s.Cgroup.Path, now, s.Written),
		dir.write(s.File, s.Before, limit))
}

// errNotOurs: the file does not hold the fault's value any more.
var errNotOurs = errors.New("changed by somebody else")

// look says what has become of a value that was written; nil when it is there.
func (s Setting) look() error {
	now, err := s.read()
	switch {
	case errors.Is(err, fault.ErrGone):
		return fmt.Errorf("cgroup %s is %w", s.Cgroup.Path, fault.ErrGone)
	case err != nil:
		return fmt.Errorf("cgroup %s: %w", s.Cgroup.Path, err)
	case now == s.Written:
		return nil
	case now == s.Before:
		return fmt.Errorf("%s of cgroup %s holds %q again, as before: the guard process or somebody else has taken the fault back", s.File, s.Cgroup.Path, now)
	}
	return fmt.Errorf("%s of cgroup %s was %w, from our %q to %q, and is left so", s.File, s.Cgroup.Path, errNotOurs, s.Written, now)
}

func (s Setting) read() (string, error) {
	dir, err := Open(s.Cgroup)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return dir.Read(s.File)
}

// watch compares a file with what it held before.
type watch struct{ setting Setting }

// Key holds the value too: two faults may write the same file, one after the
// other, and what each may leave behind is its own value.
func (w watch) Key() string {
	return fmt.Sprintf("%s of cgroup %s (%s)", w.setting.File, w.setting.Cgroup.Path, w.setting.Written)
}

// State implements fault.Watch.
func (w watch) State() ([]string, error) {
	value, err := w.setting.read()
	if errors.Is(err, os.ErrNotExist) {
		// The controller was disabled, and its values are gone with it.
		return nil, fault.ErrGone
	}
	if err != nil {
		return nil, err
	}
	return []string{value}, nil
}

// Differences implements fault.Watch. A value that is neither the old one nor
// ours is somebody else's.
func (w watch) Differences(before, after []string) []string {
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] || after[0] != w.setting.Written {
		return nil
	}
	return []string{fmt.Sprintf("left behind: it holds %q, and held %q before", after[0], before[0])}
}

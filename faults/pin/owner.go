package pin

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// claim opens a directory and makes this process its owner, as long as the
// file is open: an open file description lock ends with it, however the process
// ends (fcntl_locking(2)). A directory can only be opened for reading, which
// allows a read lock only; it keeps no second owner out, and need not: a run's
// records are taken over by one process (agent/journal).
func claim(dir string) (_ *os.File, err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening pins: %w", err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return nil, fmt.Errorf("claiming %s: %w", dir, err)
	}
	// Without an owner it may have been removed since it was opened.
	opened, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", dir, err)
	}
	named, err := os.Lstat(dir)
	if err == nil && !os.SameFile(opened, named) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", dir, err)
	}
	return file, nil
}

// claimed tells whether a process that is alive is the owner. It asks for a
// conflicting lock and takes none.
func claimed(dir string) (bool, error) {
	file, err := os.Open(dir)
	if err != nil {
		return false, fmt.Errorf("opening pins: %w", err)
	}
	defer func() { _ = file.Close() }()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("asking for the owner of %s: %w", dir, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// Remnants returns the undos of the directories below Root that no live process
// owns, whether their fault's lease still runs or not. A directory that a
// process has made and not yet claimed (microseconds) may be among them.
func Remnants() ([]fault.Undo, error) {
	if Available() != nil {
		return nil, nil
	}
	runs, err := os.ReadDir(Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for pins: %w", err)
	}
	if len(runs) == 0 {
		return []fault.Undo{Directory{Dir: Root}}, nil
	}
	var list []fault.Undo
	var errs []error
	for _, run := range runs {
		found, err := ofRun(filepath.Join(Root, run.Name()))
		list = append(list, found...)
		errs = append(errs, err)
	}
	return list, errors.Join(errs...)
}

func ofRun(run string) ([]fault.Undo, error) {
	entries, err := os.ReadDir(run)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for pins: %w", err)
	}
	if len(entries) == 0 {
		return []fault.Undo{Directory{Dir: run}}, nil
	}
	var list []fault.Undo
	var errs []error
	alive := map[string]bool{}
	for _, entry := range entries {
		owned, err := claimed(filepath.Join(run, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		dir := filepath.Join(run, strings.TrimSuffix(entry.Name(), temporary))
		alive[dir] = alive[dir] || owned
	}
	for _, dir := range slices.Sorted(maps.Keys(alive)) {
		if !alive[dir] {
			list = append(list, Directory{Dir: dir})
		}
	}
	return list, errors.Join(errs...)
}

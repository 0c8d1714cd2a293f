package pin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// Kind is the name of Directory in the journal.
const Kind = "pins"

// Directory undoes what is pinned in a directory of Root, complete or not, and
// removes the directories above it that are empty then.
type Directory struct {
	Dir string `json:"dir"`
}

// Kind implements fault.Undo.
func (Directory) Kind() string { return Kind }

// Describe implements fault.Undo.
func (d Directory) Describe() string {
	return fmt.Sprintf("detach the links that are pinned in %s and remove the directory", d.Dir)
}

// Survives implements fault.Undo: bpffs is memory.
func (Directory) Survives() bool { return false }

// Undo implements fault.Undo. It works in the order of the names.
func (d Directory) Undo(context.Context) error {
	above, err := parents(d.Dir)
	if err != nil {
		return err
	}
	// Without bpffs nothing can be pinned there: pins end with their mount.
	if Available() != nil {
		return nil
	}
	if len(above) < 2 {
		// A directory above those of the faults is only removed when empty.
		return removeEmpty(append([]string{d.Dir}, above...))
	}
	return errors.Join(removePins(d.Dir+temporary), removePins(d.Dir), removeEmpty(above))
}

// removePins goes on after errors.
func removePins(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing pins: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, removePin(filepath.Join(dir, entry.Name())))
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("removing pins: %w", err))
	}
	return errors.Join(errs...)
}

// removePin ends a link before its name is gone: somebody else who holds a
// descriptor would keep it attached.
func removePin(path string) error {
	object, err := pin.Load(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("opening pin %s: %w", path, err))
	} else {
		if l, ok := object.(link.Link); ok {
			if err := Detach(l); err != nil {
				errs = append(errs, fmt.Errorf("detaching %s: %w", path, err))
			}
		}
		errs = append(errs, object.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("removing pin: %w", err))
	}
	return errors.Join(errs...)
}

func removeEmpty(dirs []string) error {
	for _, dir := range dirs {
		err := os.Remove(dir)
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the directory of pins: %w", err)
		}
	}
	return nil
}

// Detach ends a link at once, whoever else holds it. One whose interface or
// cgroup is gone is detached already (ENOLINK, EINVAL by kernel); before 5.9
// there is no detaching, and a link ends with its last holder.
func Detach(l link.Link) error {
	err := l.Detach()
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// watch compares a directory of pins.
type watch struct{ dir string }

func (w watch) Key() string { return "pins " + w.dir }

// State lists the directory under both its names. One that is not there has
// nothing in it.
func (w watch) State() ([]string, error) {
	var lines []string
	for _, dir := range []string{w.dir, w.dir + temporary} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing pins: %w", err)
		}
		lines = append(lines, "directory "+dir)
		for _, entry := range entries {
			lines = append(lines, "pin "+filepath.Join(dir, entry.Name()))
		}
	}
	return lines, nil
}

func (w watch) Differences(before, after []string) []string {
	return fault.Compare(before, after, func(string) bool { return true })
}

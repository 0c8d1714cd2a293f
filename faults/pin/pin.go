// Package pin keeps BPF objects in bpffs, so that a fault outlives the process
// that injected it.
//
// Pinning is a transaction: everything is pinned in a directory with a
// temporary name, and gets its own name in one step when it is complete. The
// undo of all of it is recorded before the first directory is made.
package pin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

const (
	// Mount is where the BPF file system is expected; systemd mounts it there.
	Mount = "/sys/fs/bpf"
	// Root holds a directory for each run, and that one for each fault:
	// Root/RUN/FAULT.
	Root = Mount + "/faultline"

	// temporary ends the name of a directory that is not complete. It has no
	// dot: bpffs refuses them (bpf_lookup).
	temporary = "-new"
)

// ErrUnavailable says that nothing can be pinned on this machine.
var ErrUnavailable = errors.New("no BPF file system is mounted at " + Mount + " (mount -t bpf bpf " + Mount + ")")

// Available returns ErrUnavailable when there is no bpffs. It is never mounted
// from here: a mount would be one more thing that stays behind.
func Available() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(Mount, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
		return ErrUnavailable
	}
	return nil
}

// Object is a map, a program or a link of cilium/ebpf.
type Object interface {
	Pin(path string) error
}

// Pins is the directory of one fault, of which this process is the owner.
type Pins struct {
	dir string
	// at is where the pins are now: the temporary directory until Commit.
	at     string
	claim  *os.File
	undone fault.Undone
}

// New begins a transaction in rec.PinDir(), which must not exist yet. The
// undo is recorded before anything is made; after an error nothing is left.
func New(ctx context.Context, rec fault.Recorder) (_ *Pins, err error) {
	dir := rec.PinDir()
	if err := Available(); err != nil {
		return nil, fmt.Errorf("pinning: %w", err)
	}
	if err := ofFault(dir); err != nil {
		return nil, err
	}
	p := &Pins{dir: dir, at: dir + temporary}
	for _, name := range []string{p.dir, p.at} {
		// It would be somebody else's, and the undo would remove it.
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("pinning: %s exists already: %w", name, errors.Join(fs.ErrExist, err))
		}
	}
	if err := rec.Watch(watch{dir}); err != nil {
		return nil, err
	}
	if p.undone, err = rec.Record(Directory{Dir: dir}); err != nil {
		return nil, err
	}
	if err := p.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("pinning: %w", err), p.Remove(ctx))
	}
	return p, nil
}

const (
	// makeWait is how long a directory is made again that another process has
	// taken away, being empty, before it was used. One that is half way there
	// may not be on a CPU.
	makeWait = 5 * time.Second
	makePoll = 100 * time.Microsecond
)

// begin makes the temporary directory and those above it.
func (p *Pins) begin() error {
	for end := time.Now().Add(makeWait); ; time.Sleep(makePoll) {
		err := p.mkdir()
		// ErrExist is of the directories above: made and taken away by others
		// between two looks of MkdirAll.
		takenAway := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) && missing(p.at)
		if !takenAway || time.Now().After(end) {
			return err
		}
	}
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (p *Pins) mkdir() error {
	if err := os.MkdirAll(filepath.Dir(p.at), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(p.at, 0o700); err != nil {
		return err
	}
	failpoint.Hit(failpoint.PinDirMade)
	var err error
	p.claim, err = claim(p.at)
	return err
}

// Open opens a complete directory, to be taken over by this process; undone is
// its record. Nothing is changed.
func Open(dir string, undone fault.Undone) (*Pins, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	if err := ofFault(dir); err != nil {
		return nil, err
	}
	owned, err := claimed(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: it was never complete, or has been removed: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if owned {
		return nil, fmt.Errorf("%s belongs to a process that is alive", dir)
	}
	p := &Pins{dir: dir, at: dir, undone: undone}
	if p.claim, err = claim(dir); err != nil {
		return nil, err
	}
	return p, nil
}

// Watch is what compares the directory with what it was before New.
func (p *Pins) Watch() fault.Watch { return watch{p.dir} }

// Pin pins an object under a name without dots and slashes. After Commit too:
// the record is about the whole directory.
func (p *Pins) Pin(name string, object Object) error {
	if strings.ContainsAny(name, "./") {
		return fmt.Errorf("pinning %q: bpffs takes no dots in names", name)
	}
	if err := object.Pin(filepath.Join(p.at, name)); err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	failpoint.Hit(failpoint.Pinned)
	return nil
}

// Commit gives the directory its name, in one step.
func (p *Pins) Commit() error {
	if err := unix.Renameat2(unix.AT_FDCWD, p.at, unix.AT_FDCWD, p.dir, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("completing the pins in %s: %w", p.dir, err)
	}
	p.at = p.dir
	failpoint.Hit(failpoint.PinsCommitted)
	return nil
}

// Names lists what is pinned, sorted.
func (p *Pins) Names() ([]string, error) {
	entries, err := os.ReadDir(p.at)
	if err != nil {
		return nil, fmt.Errorf("listing pins: %w", err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// Map opens a pinned map. A pin that is missing is an fs.ErrNotExist, here and
// below.
func (p *Pins) Map(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.at, name), nil)
	if err != nil {
		return nil, fmt.Errorf("opening pinned map %s: %w", name, err)
	}
	return m, nil
}

// Program opens a pinned program.
func (p *Pins) Program(name string) (*ebpf.Program, error) {
	program, err := ebpf.LoadPinnedProgram(filepath.Join(p.at, name), nil)
	if err != nil {
		return nil, fmt.Errorf("opening pinned program %s: %w", name, err)
	}
	return program, nil
}

// Link opens a pinned link.
func (p *Pins) Link(name string) (link.Link, error) {
	l, err := link.LoadPinnedLink(filepath.Join(p.at, name), nil)
	if err != nil {
		return nil, fmt.Errorf("opening pinned link %s: %w", name, err)
	}
	return l, nil
}

// Remove ends the links, takes everything away and closes the record. It may
// be called again after an error.
func (p *Pins) Remove(ctx context.Context) error {
	if err := p.undone.Undo(ctx); err != nil {
		return err
	}
	return p.Close()
}

// Close gives up the ownership and leaves the pins where they are.
func (p *Pins) Close() error {
	if p.claim == nil {
		return nil
	}
	err := p.claim.Close()
	p.claim = nil
	return err
}

// parents returns the directories between Mount and a directory below Root,
// the nearest first. Everything else is an error: it is not ours.
func parents(dir string) ([]string, error) {
	below, ok := strings.CutPrefix(dir, Root)
	if !ok || filepath.Clean(dir) != dir || below != "" && below[0] != '/' || strings.Count(below, "/") > 2 {
		return nil, notOurs(dir)
	}
	var list []string
	for dir != Root {
		dir = filepath.Dir(dir)
		list = append(list, dir)
	}
	return list, nil
}

// ofFault refuses a directory that is not of the form Root/RUN/FAULT.
func ofFault(dir string) error {
	above, err := parents(dir)
	if err == nil && len(above) != 2 {
		err = notOurs(dir)
	}
	if err == nil && strings.Contains(dir, ".") {
		err = fmt.Errorf("%q can't be a directory for pins: bpffs takes no dots in names", dir)
	}
	return err
}

func notOurs(dir string) error {
	return fmt.Errorf("%q is no directory for pins: wanted %s/RUN/FAULT", dir, Root)
}

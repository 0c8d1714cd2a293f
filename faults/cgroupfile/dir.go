// Package cgroupfile holds what the faults share that write a file of a
// cgroup: reading and writing it, the record that puts the old value back, the
// comparison afterwards and the claim on the file.
//
// The kernel keeps such a value when its writer dies. So the record is on
// stable storage before the file is written, and putting back means: compare,
// and write the old value only while the file still holds ours.
package cgroupfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// Dir is an open cgroup. Its files are those of this cgroup also after another
// one has taken the path.
type Dir struct{ file *os.File }

// Open opens a cgroup; it returns fault.ErrGone when that cgroup does not exist
// any more, whoever has its name now.
func Open(c fault.Cgroup) (*Dir, error) {
	file, err := c.Open()
	if err != nil {
		return nil, err
	}
	return &Dir{file}, nil
}

// find opens a cgroup wherever it is to be seen from here: a record may be
// undone by a process for which the hierarchy is mounted elsewhere.
func find(c fault.Cgroup) (*Dir, error) {
	dir, err := Open(c)
	if !errors.Is(err, fault.ErrGone) {
		return dir, err
	}
	file, byID := openByID(c.ID)
	if byID != nil {
		return nil, err
	}
	return &Dir{file}, nil
}

// kernfsHandle is FILEID_KERNFS of linux/exportfs.h: such a handle of
// open_by_handle_at(2) holds a cgroup's id and nothing else.
const kernfsHandle = 0xfe

// openByID finds a cgroup by its id alone. Any error means that there is none,
// or that this process may not look (CAP_DAC_READ_SEARCH).
func openByID(id uint64) (*os.File, error) {
	root, err := kernel.Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	mount, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = mount.Close() }()
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), root), nil
}

// Close closes it.
func (d *Dir) Close() { _ = d.file.Close() }

// Read returns what a file holds, without the line's end. The error matches
// fault.ErrGone when the cgroup was removed, and os.ErrNotExist when it has no
// such file.
func (d *Dir) Read(name string) (string, error) {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", d.explain(name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	if err != nil {
		return "", d.explain(name, err)
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

// explain tells a missing file from a removed cgroup: an open file of that
// answers ENODEV, a look-up in it ENOENT.
func (d *Dir) explain(name string, err error) error {
	var stat unix.Stat_t
	removed := unix.Fstatat(int(d.file.Fd()), "cgroup.procs", &stat, 0) != nil
	if errors.Is(err, unix.ENODEV) || removed && errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", name, fault.ErrGone)
	}
	return fmt.Errorf("opening %s: %w", name, err)
}

// Stat returns a flat-keyed file (cgroup-v2.rst, "Format"), such as cpu.stat.
// Its errors are those of Read.
func (d *Dir) Stat(name string) (map[string]uint64, error) {
	text, err := d.Read(name)
	if err != nil {
		return nil, err
	}
	return parseStat(name, text)
}

func parseStat(name, text string) (map[string]uint64, error) {
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		values[key] = n
	}
	return values, nil
}

// Descend calls fn for this cgroup and for all below, with their ids. One that
// goes meanwhile is left out.
func (d *Dir) Descend(fn func(id uint64, d *Dir) error) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &stat); err != nil {
		return fmt.Errorf("looking at a cgroup: %w", err)
	}
	if err := fn(stat.Ino, d); err != nil {
		return err
	}
	// A descriptor of its own: reading a directory moves in it.
	self, err := d.child(".")
	if errors.Is(err, fault.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer self.Close()
	entries, err := self.file.ReadDir(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("listing a cgroup: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		child, err := d.child(entry.Name())
		if err == nil {
			err = child.Descend(fn)
			child.Close()
		}
		if err != nil && !errors.Is(err, fault.ErrGone) {
			return err
		}
	}
	return nil
}

func (d *Dir) child(name string) (*Dir, error) {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = fault.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("opening cgroup %s: %w", name, err)
	}
	return &Dir{os.NewFile(uintptr(fd), name)}, nil
}

// Await waits until done says so of a flat-keyed file that notifies of its
// changes (cgroup.events and its like), or for the time limit, which is no
// error.
func (d *Dir) Await(name string, limit time.Time, done func(map[string]uint64) bool) error {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.explain(name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }()
	for {
		// Reading arms the notification anew (kernfs_generic_poll).
		text, err := io.ReadAll(io.NewSectionReader(file, 0, 4096))
		if err != nil {
			return d.explain(name, err)
		}
		values, err := parseStat(name, string(text))
		if err != nil || done(values) {
			return err
		}
		left := time.Until(limit)
		if left <= 0 {
			return nil
		}
		// Up to the next millisecond, so that it does not end early.
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(left/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
	}
}

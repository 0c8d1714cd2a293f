package file

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// view is a file tree as processes see it: a mount namespace, and a root in it.
type view struct {
	// process is an entry of /proc that has it.
	process string
}

// viewsOf returns the views of the processes of cgroups, each once; this process's own
// where they have no processes.
func viewsOf(cgroups []fault.Cgroup) ([]view, error) {
	pids, err := fault.Processes(cgroups)
	if err != nil {
		return nil, err
	}
	var views []view
	seen := map[string]bool{}
	for _, pid := range pids {
		v := view{filepath.Join("/proc", strconv.Itoa(pid))}
		key, err := v.key()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("looking at the file tree of process %d: %w", pid, err)
		}
		if !seen[key] {
			seen[key] = true
			views = append(views, v)
		}
	}
	if len(views) == 0 {
		views = append(views, view{"/proc/self"})
	}
	return views, nil
}

// key is the same for two processes that see the same.
func (v view) key() (string, error) {
	namespace, err := os.Readlink(filepath.Join(v.process, "ns", "mnt"))
	if err != nil {
		return "", err
	}
	root, err := os.Readlink(filepath.Join(v.process, "root"))
	return namespace + " " + root, err
}

// mount is one of a view.
type mount struct {
	id int
	// point is where it is, from the view's root.
	point string
	// device is that of its files, as the kernel has it.
	device uint64
}

// mounts reads mountinfo, proc_pid_mountinfo(5).
func (v view) mounts() (list []mount, err error) {
	file, err := os.Open(filepath.Join(v.process, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			return nil, fmt.Errorf("mountinfo has a line %q", lines.Text())
		}
		var m mount
		var major, minor uint64
		if _, err := fmt.Sscanf(fields[0]+" "+fields[2], "%d %d:%d", &m.id, &major, &minor); err != nil {
			return nil, fmt.Errorf("mountinfo has a line %q: %w", lines.Text(), err)
		}
		m.point, m.device = unescape(fields[4]), major<<20|minor
		list = append(list, m)
	}
	return list, lines.Err()
}

// unescape replaces what mountinfo writes for blanks and backslashes: \040.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// tree is a view with its root held open.
type tree struct {
	root   *os.File
	mounts []mount
}

func (v view) open() (*tree, error) {
	mounts, err := v.mounts()
	if err != nil {
		return nil, err
	}
	root, err := os.OpenFile(filepath.Join(v.process, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &tree{root, mounts}, nil
}

func (t *tree) close() error { return t.root.Close() }

// at opens what is at a path from the root, as a process of the view would.
func (t *tree) at(path string) (*os.File, error) {
	fd, err := unix.Openat2(int(t.root.Fd()), cmp.Or(strings.TrimPrefix(path, "/"), "."), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// place is struct fl_place.
type place struct{ Device, Inode uint64 }

// place is where the kernel has a file that was opened in the tree.
func (t *tree) place(file *os.File) (p place, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", file.Fd()))
	if err != nil {
		return p, err
	}
	id := -1
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); name {
		case "mnt_id":
			id, err = strconv.Atoi(value)
		case "ino":
			p.Inode, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return p, fmt.Errorf("fdinfo has a line %q: %w", line, err)
		}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return p, err
	}
	if p.Inode == 0 {
		// Before 5.14 fdinfo does not tell.
		p.Inode = stat.Ino
	}
	// A process whose root is within a mount does not see that in its list.
	p.Device = uint64(unix.Major(stat.Dev))<<20 | uint64(unix.Minor(stat.Dev))
	for _, m := range t.mounts {
		if m.id == id {
			p.Device = m.device
		}
	}
	return p, t.check(file)
}

// check refuses file systems in which device and inode don't tell a file.
func (t *tree) check(file *os.File) error {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Type == unix.BTRFS_SUPER_MAGIC {
		return fmt.Errorf("%s is on btrfs, whose subvolumes have the same inode numbers: that is %w", file.Name(), fault.ErrNotBuilt)
	}
	return nil
}

// realPath is the path of a file from the root of the tree, without symbolic links.
func (t *tree) realPath(file *os.File) (string, error) {
	full, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return "", err
	}
	root, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", t.root.Fd()))
	if err != nil {
		return "", err
	}
	// Of another mount namespace the kernel tells it from that one's root.
	below, found := strings.CutPrefix(full, strings.TrimSuffix(root, "/"))
	if !found {
		below = full
	}
	return path.Clean("/" + below), nil
}

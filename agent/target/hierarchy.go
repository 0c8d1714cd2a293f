package target

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// rootInode is the inode number, and so the cgroup id, of the root of the
// unified hierarchy: kernel/cgroup/cgroup.c, cgroup_setup_root warns when it
// is anything else. The root of a cgroup namespace or of a bind mount has the
// number of the cgroup that it shows.
const rootInode = 1

// initCgroupNS is the inode number of the first cgroup namespace
// (PROC_CGROUP_INIT_INO, include/linux/proc_ns.h).
const initCgroupNS = 0xEFFFFFFB

// kernfsHandle is the type of a file handle that is a 64-bit kernfs id
// (FILEID_KERNFS, include/linux/exportfs.h).
const kernfsHandle = 0xfe

// hierarchy is the mounted part of the unified hierarchy.
type hierarchy struct {
	// root is the mount point without symbolic links.
	root string
	fd   int
	// shown is the cgroup at the mount point as this process's cgroup
	// namespace names it: what /proc/PID/cgroup is relative to.
	shown nsPath
	// base is the level of the cgroup at the mount point, or -1.
	base int
}

// nsPath is a cgroup as seen from a cgroup namespace: so many levels up from
// its root, then down these names (cgroup_namespaces(7)).
type nsPath struct {
	up    int
	names []string
}

func parseNSPath(s string) nsPath {
	var p nsPath
	for name := range strings.SplitSeq(s, "/") {
		switch {
		case name == "" || name == ".":
		case name == ".." && len(p.names) == 0:
			p.up++
		default:
			p.names = append(p.names, name)
		}
	}
	return p
}

// below returns the path of p under base. It is false also when p is above or
// beside base, or when the names between them are not known.
func (p nsPath) below(base nsPath) (string, bool) {
	if p.up != base.up || len(p.names) < len(base.names) {
		return "", false
	}
	for i, name := range base.names {
		if p.names[i] != name {
			return "", false
		}
	}
	rest := p.names[len(base.names):]
	if len(rest) == 0 {
		return ".", true
	}
	return strings.Join(rest, "/"), true
}

func (r *Resolver) hierarchy() (*hierarchy, error) {
	if r.CgroupRoot == "" {
		return nil, ErrNoCgroup2
	}
	root, err := filepath.EvalSymlinks(r.CgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("resolving the mount point of cgroup v2: %w", err)
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the mount point of cgroup v2 %s: %w", root, err)
	}
	h := &hierarchy{root: root, fd: fd, base: -1}
	if err := h.examine(r.proc()); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *hierarchy) close() { _ = unix.Close(h.fd) }

func (h *hierarchy) examine(proc string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(h.fd, &fs); err != nil {
		return fmt.Errorf("asking for the file system of %s: %w", h.root, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return tag(ErrNoCgroup2, fmt.Errorf("%s is not cgroup v2: %w", h.root, ErrNoCgroup2))
	}
	shown, err := mountedRoot(filepath.Join(proc, "self", "mountinfo"), h.root)
	if err != nil {
		return err
	}
	h.shown = parseNSPath(shown)
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", h.root, err)
	}
	if st.Ino == rootInode {
		h.base = 0
		return nil
	}
	// A bind mount of a part: its depth is known where names start at the
	// real root, which is so in the first cgroup namespace only.
	var ns unix.Stat_t
	if err := unix.Stat(filepath.Join(proc, "self", "ns", "cgroup"), &ns); err != nil {
		return fmt.Errorf("looking at this process's cgroup namespace: %w", err)
	}
	if ns.Ino == initCgroupNS && h.shown.up == 0 {
		h.base = len(h.shown.names)
	}
	return nil
}

// mountedRoot returns the fourth field of the mount's line in mountinfo
// (proc(5)): the directory of the file system that is its root, for cgroup v2
// relative to the reader's cgroup namespace.
func mountedRoot(mountinfo, mountPoint string) (string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", fmt.Errorf("reading the mounts: %w", err)
	}
	defer f.Close()
	found := ""
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if len(fields) < 6 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if unescapeMount(fields[4]) == mountPoint {
			found = unescapeMount(fields[3]) // a later mount covers it
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("reading the mounts: %w", err)
	}
	if found == "" {
		return "", tag(ErrNoCgroup2, fmt.Errorf("%s is not the mount point of cgroup v2", mountPoint))
	}
	return found, nil
}

// unescapeMount undoes the octal escapes of mountinfo (seq_path in
// fs/seq_file.c writes space, tab, newline and backslash so).
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// open looks at the cgroup at rel, a clean path below the mount point.
func (h *hierarchy) open(rel string) (fault.Cgroup, error) {
	path := filepath.Join(h.root, rel)
	// Beneath and without links or other mounts: whatever is put there
	// between two looks, nothing outside of the hierarchy is opened.
	fd, err := unix.Openat2(h.fd, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fault.Cgroup{}, h.missing(rel)
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return fault.Cgroup{}, tag(ErrInvalid, fmt.Errorf("%s is not a cgroup of the unified hierarchy: another file system or a link is in the way", path))
	case err != nil:
		return fault.Cgroup{}, fmt.Errorf("opening cgroup %s: %w", path, err)
	}
	defer unix.Close(fd)
	id, err := cgroupID(fd)
	if err != nil {
		return fault.Cgroup{}, fmt.Errorf("asking for the id of cgroup %s: %w", path, err)
	}
	if h.base < 0 {
		return fault.Cgroup{}, fmt.Errorf("cgroup %s: %w below the root of the hierarchy: %s shows a part of it and this process is in a cgroup namespace of its own; run in the host's cgroup namespace", path, ErrUnknownLevel, h.root)
	}
	level := h.base
	if rel != "." {
		level += strings.Count(rel, "/") + 1
	}
	return fault.Cgroup{Path: path, ID: id, Level: level}, nil
}

// cgroupID returns the id by which BPF helpers know the cgroup. On 64-bit
// kernels since 5.5 it is the inode number and also the file handle
// (fs/kernfs/dir.c, union of the 64-bit id); on older ones only the handle
// has all of it. Where both are at hand they must agree.
func cgroupID(fd int) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, tag(ErrInvalid, errors.New("it is not a cgroup of the unified hierarchy"))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP):
		// A seccomp filter of a container may forbid the call.
		return st.Ino, nil
	case err != nil:
		return 0, fmt.Errorf("name_to_handle_at: %w", err)
	}
	if handle.Type() != kernfsHandle || handle.Size() != 8 {
		return 0, fmt.Errorf("its file handle has type %#x and %d bytes, wanted a kernfs id (%#x, 8 bytes)", handle.Type(), handle.Size(), kernfsHandle)
	}
	if id := binary.NativeEndian.Uint64(handle.Bytes()); id != st.Ino {
		return 0, fmt.Errorf("its inode number %d and its kernfs id %d differ: a kernel older than 5.5, or a 32-bit one, is not supported", st.Ino, id)
	}
	return st.Ino, nil
}

package file

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// anchorsMax is ANCHORS_MAX of bpf/files/path.h.
const anchorsMax = 4096

// where is the path of a fault, as the programs know it.
type where struct {
	// components are those of the whole pattern; the first fixed of them name a
	// directory that exists in some view, and the matcher has the rest.
	components []string
	fixed      int
	matcher    *matcher
}

// locate looks how much of a path exists in the views of the target.
func locate(pattern string, cgroups []fault.Cgroup) (*where, error) {
	w := &where{components: split(pattern)}
	views, err := viewsOf(cgroups)
	if err != nil {
		return nil, err
	}
	// The last one may be created while the fault is on. A view that has less of the
	// path comes in when it has as much.
	longest := min(len(literal(w.components)), max(len(w.components)-1, 0))
	for _, v := range views {
		depth, err := w.depth(v, longest)
		if err != nil && !ended(err) {
			return nil, fmt.Errorf("looking for %s: %w", pattern, err)
		}
		w.fixed = max(w.fixed, depth)
	}
	if w.matcher, err = compile(w.components[w.fixed:]); err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	return w, nil
}

// depth is how many of the first components exist in a view as directories.
func (w *where) depth(v view, longest int) (int, error) {
	t, err := v.open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = t.close() }()
	for depth := longest; depth > 0; depth-- {
		found, err := isDirectory(t, "/"+strings.Join(w.components[:depth], "/"))
		if err != nil || found {
			return depth, err
		}
	}
	return 0, nil
}

// prefix is the fixed part as a path.
func (w *where) prefix() string { return "/" + strings.Join(w.components[:w.fixed], "/") }

func isDirectory(t *tree, path string) (bool, error) {
	file, err := t.at(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	return err == nil && info.IsDir(), err
}

// ended tells whether an error may come of a process that has ended, or of a file that
// has gone, while it was looked at.
func ended(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR)
}

// anchors lists what the programs know of the file trees: which components may come
// after a directory, one bit each.
func (w *where) anchors(cgroups []fault.Cgroup) (map[place]uint32, error) {
	views, err := viewsOf(cgroups)
	if err != nil {
		return nil, err
	}
	found := map[place]uint32{}
	for _, v := range views {
		if err := w.anchorsIn(v, found); err != nil && !ended(err) {
			return nil, fmt.Errorf("looking for %s: %w", w.prefix(), err)
		}
	}
	if len(found) > anchorsMax {
		return nil, fmt.Errorf("%d mounts and directories lead to files of the pattern; at most %d are supported", len(found), anchorsMax)
	}
	return found, nil
}

func (w *where) anchorsIn(v view, found map[place]uint32) error {
	t, err := v.open()
	if err != nil {
		return err
	}
	defer func() { _ = t.close() }()
	dir, err := t.at(w.prefix())
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	at, err := t.place(dir)
	if err != nil {
		return err
	}
	found[at] |= w.matcher.begin()
	if err := w.named(t, found); err != nil {
		return err
	}
	real, err := t.realPath(dir)
	if err != nil {
		return err
	}
	return w.mounted(t, real, found)
}

// named adds the one file that a pattern without wildcards names, which may be known
// by other names too: where a symbolic link leads, and hard links.
func (w *where) named(t *tree, found map[place]uint32) error {
	if len(literal(w.components)) < len(w.components) {
		return nil
	}
	file, err := t.at("/" + strings.Join(w.components, "/"))
	if ended(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	at, err := t.place(file)
	if err != nil {
		return err
	}
	found[at] |= w.matcher.all()
	return nil
}

// mounted adds the roots of what is mounted below the fixed part: their files are found
// from there.
func (w *where) mounted(t *tree, real string, found map[place]uint32) error {
	for _, m := range t.mounts {
		below, inside := strings.CutPrefix(m.point, strings.TrimSuffix(real, "/")+"/")
		if !inside || below == "" {
			continue
		}
		set := w.matcher.begin()
		for _, name := range split(below) {
			set = w.matcher.follow(set, name)
		}
		if set == 0 {
			continue
		}
		file, err := t.at(m.point)
		if ended(err) {
			continue
		}
		if err != nil {
			return err
		}
		at, err := t.place(file)
		_ = file.Close()
		if err != nil {
			return err
		}
		found[at] |= set
	}
	return nil
}

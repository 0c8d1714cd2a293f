package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// match returns the clean relative paths of the cgroups that a target of kind
// cgroup names: a path from the mount point ("/shop/cart"), a full path below
// it, or either with the wildcards of path.Match in it ("/shop/*"), which
// never cross a slash. A backslash stands for itself: systemd uses it in the
// names of units.
func (h *hierarchy) match(given string) ([]string, error) {
	rel, err := h.relative(given)
	if err != nil {
		return nil, err
	}
	if h.exists(rel) || !strings.ContainsAny(rel, "*?[") {
		return []string{rel}, nil
	}
	pattern := strings.ReplaceAll(rel, `\`, `\\`)
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, tag(ErrInvalid, fmt.Errorf("cgroup %q is not a pattern: a '[' without its ']'; wildcards are *, ? and [a-z]", given))
	}
	found, err := fs.Glob(os.DirFS(h.root), pattern)
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups %q: %w", given, err)
	}
	found = slices.DeleteFunc(found, func(name string) bool { return !h.exists(name) })
	if len(found) == 0 {
		return nil, h.missing(rel)
	}
	slices.Sort(found)
	return found, nil
}

// relative turns what was given into a clean path below the mount point.
func (h *hierarchy) relative(given string) (string, error) {
	if given == "" {
		return "", tag(ErrInvalid, errors.New("cgroup is empty: wanted a path such as /shop/cart"))
	}
	if strings.ContainsRune(given, 0) || slices.Contains(strings.Split(given, "/"), "..") {
		return "", tag(ErrInvalid, fmt.Errorf("cgroup %q: the path must not contain \"..\" or NUL", given))
	}
	clean := path.Clean("/" + given)
	if rel, ok := within(h.root, clean); ok {
		return rel, nil
	}
	rel := strings.TrimPrefix(clean, "/")
	if rel == "" {
		return ".", nil
	}
	if !path.IsAbs(given) || h.exists(rel) {
		return rel, nil
	}
	// Not below the mount point by its name; perhaps by a link, and perhaps
	// a cgroup of another hierarchy, which deserves words of its own.
	real, err := filepath.EvalSymlinks(clean)
	if err != nil {
		return rel, nil
	}
	if rel, ok := within(h.root, real); ok {
		return rel, nil
	}
	var st unix.Statfs_t
	if unix.Statfs(real, &st) == nil {
		switch st.Type {
		case unix.CGROUP_SUPER_MAGIC:
			return "", tag(ErrInvalid, fmt.Errorf("%s is a cgroup of version 1, not of the unified hierarchy at %s", given, h.root))
		case unix.CGROUP2_SUPER_MAGIC:
			return "", tag(ErrInvalid, fmt.Errorf("%s is not below the mount point of cgroup v2 in use, %s", given, h.root))
		}
		return "", tag(ErrNotFound, fmt.Errorf("%s is not a cgroup: wanted a path below %s", given, h.root))
	}
	return rel, nil
}

// within returns the path of p below dir; both are clean and absolute.
func within(dir, p string) (string, bool) {
	if p == dir {
		return ".", true
	}
	rel, ok := strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/")
	return rel, ok
}

func (h *hierarchy) exists(rel string) bool {
	st, err := os.Lstat(filepath.Join(h.root, rel))
	return err == nil && st.IsDir()
}

// missing says that nothing matches, and how far the path is right.
func (h *hierarchy) missing(rel string) error {
	parent := path.Dir(rel)
	for parent != "." && (strings.ContainsAny(parent, "*?[") || !h.exists(parent)) {
		parent = path.Dir(parent)
	}
	what := "does not exist"
	if strings.ContainsAny(rel, "*?[") {
		what = "matches nothing"
	}
	return tag(ErrNotFound, fmt.Errorf("cgroup /%s %s below %s: the nearest cgroup that exists is %s%s",
		rel, what, h.root, path.Join("/", parent), h.children(parent)))
}

// children names some of the cgroups in parent.
func (h *hierarchy) children(parent string) string {
	const most = 8
	entries, err := os.ReadDir(filepath.Join(h.root, parent))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	switch {
	case len(names) == 0:
		return ", which has no children"
	case len(names) > most:
		return fmt.Sprintf(", with %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return ", with " + strings.Join(names, ", ")
}

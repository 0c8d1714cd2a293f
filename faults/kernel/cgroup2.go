package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrNoCgroup2 is returned when no cgroup v2 file system can be reached.
var ErrNoCgroup2 = errors.New("no cgroup v2 file system is mounted")

// selfMountinfo lists the mounts of the caller's mount namespace, proc_pid_mountinfo(5).
const selfMountinfo = "/proc/self/mountinfo"

// Cgroup2Mount returns the mount point of the cgroup v2 hierarchy that this
// process sees. It returns [ErrNoCgroup2] when there is none.
func Cgroup2Mount() (string, error) {
	f, err := os.Open(selfMountinfo)
	if err != nil {
		return "", fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	return FindCgroup2(f)
}

// mount is one line of mountinfo, as far as it is needed here.
type mount struct {
	id, parent string
	root       string
	point      string
	fstype     string
}

// FindCgroup2 returns the mount point of the cgroup v2 hierarchy in a listing
// in the format of proc_pid_mountinfo(5): /sys/fs/cgroup where v2 is alone,
// /sys/fs/cgroup/unified where systemd runs both versions, or any other place.
//
// Of several mounts the one that shows the hierarchy from its root wins, then
// the one that is nearest to /. Mounts hidden under another mount don't count.
// It returns [ErrNoCgroup2] when none is left.
func FindCgroup2(mountinfo io.Reader) (string, error) {
	mounts, err := parseMountinfo(mountinfo)
	if err != nil {
		return "", err
	}
	var best *mount
	for i := range mounts {
		m := &mounts[i]
		if m.fstype != "cgroup2" || hidden(mounts, m) {
			continue
		}
		if best == nil || better(m, best) {
			best = m
		}
	}
	if best == nil {
		return "", ErrNoCgroup2
	}
	return best.point, nil
}

// better orders two visible cgroup2 mounts.
func better(a, b *mount) bool {
	if (a.root == "/") != (b.root == "/") {
		return a.root == "/"
	}
	da, db := strings.Count(a.point, "/"), strings.Count(b.point, "/")
	if da != db {
		return da < db
	}
	return a.point < b.point
}

// hidden reports whether another mount covers m or one that m hangs on. The
// order of mountinfo says nothing about this, the tree of parents does.
func hidden(mounts []mount, m *mount) bool {
	chain := map[string]bool{}
	for at := m; at != nil && !chain[at.id]; {
		chain[at.id] = true
		var up *mount
		for i := range mounts {
			o := &mounts[i]
			if o.id == at.parent {
				up = o
			}
			if o.id == at.id || chain[o.id] {
				continue
			}
			onTop := o.parent == at.id && o.point == at.point
			above := o.parent == at.parent && strings.HasPrefix(at.point, strings.TrimSuffix(o.point, "/")+"/")
			if onTop || above {
				return true
			}
		}
		at = up
	}
	return false
}

// parseMountinfo reads every line. Fields: id, parent, device, root, mount
// point, options, any number of optional fields, "-", type, source, options.
func parseMountinfo(r io.Reader) ([]mount, error) {
	var mounts []mount
	sc := bufio.NewScanner(r)
	// An overlay's option list is longer than the scanner's default line.
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 1 {
			return nil, fmt.Errorf("reading mounts: line %q is not mountinfo", sc.Text())
		}
		mounts = append(mounts, mount{
			id: f[0], parent: f[1], root: unescape(f[3]), point: unescape(f[4]), fstype: g[0],
		})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading mounts: %w", err)
	}
	return mounts, nil
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

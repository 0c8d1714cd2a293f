//go:build linux && privileged

package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A process that is killed while it probes leaves its cgroup; the next who
// probes removes it, and no one that is in use.
func TestStaleCgroupIsRemoved(t *testing.T) {
	root, err := Cgroup2Mount()
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(root, "faultline-probe-0123456789abcdef")
	if err := os.Mkdir(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	used, lock, err := makeCgroup(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = os.Remove(used), lock.Close() }()
	found, err := StaleCgroups(root)
	if err != nil || !slices.Contains(found, stale) || slices.Contains(found, used) {
		t.Errorf("stale: %v, %v", found, err)
	}
	if err := withCgroup(root, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{stale: false, used: true} {
		if _, err := os.Stat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := RemoveStaleCgroup(used); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("a cgroup in use was removed: %v", err)
	}
}

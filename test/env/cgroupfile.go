//go:build linux

package env

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/vm/kernels"
)

// Controlled makes a cgroup in whose children the controllers are enabled. The
// test is skipped on a machine whose hierarchy does not offer them, unless it
// is a kernel that is declared to.
func Controlled(t testing.TB, controllers ...kernel.Capability) fault.Cgroup {
	t.Helper()
	enabled := strings.Fields(ReadFile(t, fault.Cgroup{Path: CgroupRoot(t)}, "cgroup.subtree_control"))
	for _, c := range controllers {
		if !slices.Contains(enabled, controllerName(c)) {
			kernels.Missing(t, string(c), errors.New("it is not enabled for the children of the root"))
		}
	}
	parent := Cgroup(t)
	for _, c := range controllers {
		WriteFile(t, parent, "cgroup.subtree_control", "+"+controllerName(c))
	}
	return parent
}

func controllerName(c kernel.Capability) string { return strings.TrimSuffix(string(c), "-controller") }

// ReadFile returns what a cgroup's file holds.
func ReadFile(t testing.TB, c fault.Cgroup, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Path, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// WriteFile writes a cgroup's file.
func WriteFile(t testing.TB, c fault.Cgroup, name, value string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(c.Path, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(value)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// ReadStat returns a value of a flat-keyed file of a cgroup.
func ReadStat(t testing.TB, c fault.Cgroup, name, key string) uint64 {
	t.Helper()
	for line := range strings.Lines(ReadFile(t, c, name)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
			value, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("%s of %s has no %s", name, c.Path, key)
	return 0
}

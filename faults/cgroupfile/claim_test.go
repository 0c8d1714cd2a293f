package cgroupfile_test

import (
	"encoding/json"
	"testing"

	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/fault"
	"github.com/google/go-cmp/cmp"
)

func TestClaimsOfOneFileConflict(t *testing.T) {
	claim := func(file string, paths ...string) cgroupfile.Files {
		c := cgroupfile.Files{File: file}
		for i, path := range paths {
			c.Cgroups = append(c.Cgroups, fault.Cgroup{Path: path, ID: uint64(i + 10), Level: 1})
		}
		return c
	}
	for _, test := range []struct {
		a, b cgroupfile.Files
		want string
	}{
		{claim("cpu.max", "/g/a"), claim("cpu.max", "/g/a"), "cpu.max of cgroup /g/a"},
		{claim("cpu.max", "/g/a"), claim("cpu.max", "/g/b", "/g/a/b"), "cpu.max of cgroup /g/a/b"},
		{claim("cpu.max", "/g/a/b"), claim("cpu.max", "/g/a"), "cpu.max of cgroup /g/a/b"},
		{claim("cpu.max", "/g/a"), claim("cpu.max", "/g/ab"), ""},
		{claim("cpu.max", "/g/a"), claim("pids.max", "/g/a"), ""},
	} {
		data, err := json.Marshal(test.b)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := faults.DecodeClaim(test.b.Kind(), data)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fault.Claim(test.b), stored); d != "" {
			t.Errorf("stored claim: %s", d)
		}
		for _, got := range []string{test.a.Conflict(stored), stored.Conflict(test.a)} {
			if got != test.want {
				t.Errorf("%v and %v: %q, want %q", test.a, test.b, got, test.want)
			}
		}
	}
}

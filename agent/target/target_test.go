package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

func TestPathsOfACgroupNamespace(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		path, shown, want string
		ok                bool
	}{
		{"/", "/", ".", true},
		{"/shop/cart", "/", "shop/cart", true},
		{"/shop/cart", "/shop", "cart", true},
		{"/shop", "/shop", ".", true},
		{"/shopping", "/shop", "", false},
		{"/", "/shop", "", false},
		// The mount shows more than the namespace: what lies between has
		// no name here.
		{"/", "/..", "", false},
		{"/../other", "/..", "other", true},
		{"/../other", "/", "", false},
		{"/../..", "/../..", ".", true},
	} {
		got, ok := parseNSPath(tc.path).below(parseNSPath(tc.shown))
		if got != tc.want || ok != tc.ok {
			t.Errorf("%s below %s: %q, %v; wanted %q, %v", tc.path, tc.shown, got, ok, tc.want, tc.ok)
		}
	}
}

func TestMountedRoot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mountinfo")
	text := `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:7 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:3 - cgroup2 cgroup2 rw
42 31 0:38 /a\040b /mnt/with\040space rw - cgroup2 cgroup2 rw
43 42 0:38 /../.. /twice rw - cgroup2 cgroup2 rw
44 43 0:38 /top /twice rw - cgroup2 cgroup2 rw
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for point, want := range map[string]string{
		"/sys/fs/cgroup/unified": "/", "/mnt/with space": "/a b", "/twice": "/top", "/sys/fs/cgroup/cpu": "", "/none": "",
	} {
		got, err := mountedRoot(file, point)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrNoCgroup2) {
			t.Errorf("%s: %q, %v", point, got, err)
		}
	}
}

func TestUnitName(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"checkout":             "checkout.service",
		"checkout.service":     "checkout.service",
		"getty@tty1":           "getty@tty1.service",
		"org.example.shop":     "org.example.shop.service",
		"shop.slice":           "shop.slice",
		"session-1.scope":      "session-1.scope",
		`dev-disk\x2dby.mount`: `dev-disk\x2dby.mount`,
		"daily.timer":          "",
		"":                     "",
		"a/b":                  "",
		"two words":            "",
	} {
		got, err := unitName(given)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
}

func members(n int) []member {
	var out []member
	for i := range n {
		rel := fmt.Sprintf("shop/%02d", i)
		out = append(out, member{rel, fault.Cgroup{Path: "/mnt/" + rel, ID: uint64(100 + i), Level: 2}})
	}
	return out
}

func paths(t *testing.T, m []member, p *v1.Pick, seed uint64) []string {
	t.Helper()
	picked, err := pick(m, p, seed)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range picked {
		out = append(out, c.Path)
	}
	return out
}

func count(n uint32) *v1.Pick       { return &v1.Pick{Pick: &v1.Pick_Count{Count: n}} }
func percent(p float64) *v1.Pick    { return &v1.Pick{Pick: &v1.Pick_Percent{Percent: p}} }
func cgroup(path string) *v1.Target { return &v1.Target{Target: &v1.Target_Cgroup{Cgroup: path}} }

func TestPickSizes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		of   int
		pick *v1.Pick
		want int
	}{
		{10, nil, 10},
		{10, &v1.Pick{Pick: &v1.Pick_All{All: true}}, 10},
		{10, count(3), 3},
		{10, count(30), 10},
		{10, percent(50), 5},
		{10, percent(51), 6},
		{10, percent(0.1), 1},
		{10, percent(100), 10},
		{25, percent(28), 7},
		{1, percent(1), 1},
	} {
		got := paths(t, members(tc.of), tc.pick, 1)
		if len(got) != tc.want || !slices.IsSorted(got) {
			t.Errorf("%v of %d: %v", tc.pick, tc.of, got)
		}
	}
	for _, p := range []*v1.Pick{count(0), percent(0), percent(-1), percent(100.1)} {
		if _, err := pick(members(3), p, 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: error %v", p, err)
		}
	}
}

func TestPickDependsOnSeedAndPathOnly(t *testing.T) {
	t.Parallel()
	want := paths(t, members(20), count(5), 42)
	// A change of this list changes what a repeated experiment does.
	if diff := cmp.Diff([]string{"/mnt/shop/03", "/mnt/shop/04", "/mnt/shop/09", "/mnt/shop/11", "/mnt/shop/15"}, want); diff != "" {
		t.Errorf("picked (-want +got):\n%s", diff)
	}
	reversed := members(20)
	slices.Reverse(reversed)
	if diff := cmp.Diff(want, paths(t, reversed, count(5), 42)); diff != "" {
		t.Errorf("order matters (-want +got):\n%s", diff)
	}
	if cmp.Equal(want, paths(t, members(20), count(5), 43)) {
		t.Error("another seed picks the same")
	}
	// Each is picked about as often: 5 of 20, a thousand times.
	hits := map[string]int{}
	for seed := range uint64(1000) {
		for _, p := range paths(t, members(20), count(5), seed) {
			hits[p]++
		}
	}
	for p, n := range hits {
		if n < 190 || n > 310 {
			t.Errorf("%s was picked %d times, wanted about 250", p, n)
		}
	}
}

func TestPickMovesLittleWhenOneGoes(t *testing.T) {
	t.Parallel()
	before := paths(t, members(20), count(5), 7)
	for i := range 20 {
		after := paths(t, slices.Delete(members(20), i, i+1), count(5), 7)
		kept := 0
		for _, p := range after {
			if slices.Contains(before, p) {
				kept++
			}
		}
		if kept < 4 {
			t.Errorf("without %d: %v became %v", i, before, after)
		}
	}
}

func TestNotBuiltAndMissing(t *testing.T) {
	t.Parallel()
	r := &Resolver{}
	for _, target := range []*v1.Target{
		{Target: &v1.Target_Container{Container: "x"}}, {Target: &v1.Target_Pod{}}, {Target: &v1.Target_Host{Host: true}},
	} {
		if _, err := r.Resolve(t.Context(), target, 0); !errors.Is(err, fault.ErrNotBuilt) {
			t.Errorf("%v: %v", target, err)
		}
	}
	for _, target := range []*v1.Target{nil, {}} {
		if _, err := r.Resolve(t.Context(), target, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", target, err)
		}
	}
}

func TestNoCgroup2SaysHowToGetIt(t *testing.T) {
	t.Parallel()
	for _, r := range []*Resolver{{}, {CgroupRoot: t.TempDir()}} {
		_, err := r.Resolve(t.Context(), cgroup("/x"), 0)
		if !errors.Is(err, ErrNoCgroup2) || !strings.Contains(err.Error(), "systemd.unified_cgroup_hierarchy=1") {
			t.Errorf("error %v", err)
		}
	}
}

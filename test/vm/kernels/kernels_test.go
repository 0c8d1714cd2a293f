package kernels

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheListHasTheSixKernels(t *testing.T) {
	var ids []string
	for _, k := range All() {
		ids = append(ids, k.ID)
		if len(k.Capabilities) == 0 {
			t.Errorf("%s declares no capability", k.ID)
		}
		seen := map[string]bool{}
		for _, capability := range k.Capabilities {
			if seen[capability] {
				t.Errorf("%s declares %s twice", k.ID, capability)
			}
			seen[capability] = true
		}
	}
	slices.Sort(ids)
	want := []string{"debian-5.10", "debian-6.1", "debian-6.12", "debian-7", "ei-5.10", "ei-6.12"}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "kernels: [{id: a, debian: {suite: s, package: p}}]"
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string]string{
		"unknown field":  "kernels: [{id: a, debain: {suite: s, package: p}}]",
		"no id":          "kernels: [{debian: {suite: s, package: p}}]",
		"no source":      "kernels: [{id: a}]",
		"two sources":    "kernels: [{id: a, debian: {suite: s, package: p}, ei: {image: i, suite: s, package: p}}]",
		"no suite":       "kernels: [{id: a, debian: {package: p}}]",
		"no image":       "kernels: [{id: a, ei: {suite: s, package: p}}]",
		"listed twice":   "kernels: [{id: a, debian: {suite: s, package: p}}, {id: a, debian: {suite: s, package: p}}]",
		"not a document": "[",
	} {
		if _, err := Parse([]byte(document)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFindListsTheIDs(t *testing.T) {
	if k, err := Find("ei-6.12"); err != nil || k.ID != "ei-6.12" || k.EI == nil {
		t.Errorf("ei-6.12: got %v, %v", k, err)
	}
	_, err := Find("debian-4.19")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(fmt.Sprint(err), "debian-5.10, ei-6.12") {
		t.Errorf("got %v", err)
	}
}

func TestCurrentFollowsTheVariable(t *testing.T) {
	t.Setenv(Variable, "")
	if _, ok, err := Current(); ok || err != nil {
		t.Errorf("outside of the bench: got %v, %v", ok, err)
	}
	t.Setenv(Variable, "debian-6.1")
	if k, ok, err := Current(); !ok || err != nil || k.ID != "debian-6.1" {
		t.Errorf("debian-6.1: got %v, %v, %v", k, ok, err)
	}
	t.Setenv(Variable, "debian-4.19")
	if _, ok, err := Current(); ok || !errors.Is(err, ErrUnknown) {
		t.Errorf("debian-4.19: got %v, %v", ok, err)
	}
}

// recorder is a testing.TB that remembers how a test was ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatal(...any)          { r.ended = "failed" }
func (r *recorder) Fatalf(string, ...any) { r.ended = "failed" }
func (r *recorder) Skipf(string, ...any)  { r.ended = "skipped" }

func TestMissingFailsWhereTheCapabilityIsDeclared(t *testing.T) {
	declared := All()[0].Capabilities[0]
	for _, tc := range []struct{ kernel, capability, want string }{
		{"", declared, "skipped"},
		{All()[0].ID, "no-such-capability", "skipped"},
		{All()[0].ID, declared, "failed"},
		{"debian-4.19", declared, "failed"},
	} {
		t.Setenv(Variable, tc.kernel)
		r := &recorder{}
		Missing(r, tc.capability, errors.New("operation not supported"))
		if r.ended != tc.want {
			t.Errorf("%s on %q: %s, want %s", tc.capability, tc.kernel, r.ended, tc.want)
		}
	}
}

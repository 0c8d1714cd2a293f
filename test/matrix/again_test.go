package main

import (
	"fmt"
	"strings"
	"testing"

	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// failing is a test that fails that many times, in as many runs.
type failing struct {
	name  string
	times int
	says  string
}

// failingTree is a module of such tests, with a bench that runs them here.
func failingTree(tests []failing) map[string]string {
	source := `//go:build privileged

package network

import (
	"os"
	"testing"
)

// A file grows by a byte a failure.
func fail(t *testing.T, times int, says string) {
	before, _ := os.ReadFile(t.Name())
	if len(before) >= times {
		return
	}
	if err := os.WriteFile(t.Name(), append(before, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Error(says)
}
`
	for _, test := range tests {
		source += fmt.Sprintf("\nfunc %s(t *testing.T) { fail(t, %d, %q) }\n", test.name, test.times, test.says)
	}
	return map[string]string{
		"go.mod": "module example.com/tree\n\ngo 1.26\n",
		"faults/network/network_privileged_test.go": source,
		"test/vm/run": "#!/bin/sh\nwhile [ $1 != -- ]; do shift; done\nshift\nexec \"$@\"\n",
	}
}

// A test that compares times may fail once, in a guest; everything else may not.
func TestTimedTestsAreTriedAgain(t *testing.T) {
	slow := func(name string, times int) failing { return failing{name, times, "it took too long"} }
	for _, test := range []struct {
		name     string
		tests    []failing
		problems int
	}{
		{"once", []failing{slow("TestTBFIsTheRate", 1), slow("TestJitterIsLikeNetems", 0)}, 0},
		{"twice", []failing{slow("TestTBFIsTheRate", 2)}, 1},
		{"every time", []failing{slow("TestTBFIsTheRate", 1+tries)}, 1},
		{"another test", []failing{slow("TestFilters", 1)}, 1},
		{"something is left", []failing{{"TestTBFIsTheRate", 1, env.LeftBehind + "a qdisc"}}, 1},
		{"too many", []failing{
			slow("TestTBFIsTheRate", 1), slow("TestBandwidthIsTheRate", 1), slow("TestJitterIsLikeNetems", 1), slow("TestLatencyEverywhere", 1),
		}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			var report strings.Builder
			m := newMatrixOf(t, failingTree(test.tests), allPackages)
			m.w, m.jobs = &report, 1
			m.options.packages = []string{allPackages}
			m.kernels = []kernels.Kernel{{ID: "debian-6.1"}}
			err := m.guests(t.Context())
			want := ""
			if test.problems > 0 {
				want = fmt.Sprintf("%d problems", test.problems)
			}
			if got := fmt.Sprint(err); (err != nil) != (want != "") || err != nil && got != want {
				t.Errorf("the error is %v, want %q\n%s", err, want, &report)
			}
			if told := strings.Contains(report.String(), "UNSTEADY on debian-6.1: example.com/tree/faults/network TestTBFIsTheRate failed once"); told != (want == "") {
				t.Errorf("told: %v\n%s", told, &report)
			}
		})
	}
}

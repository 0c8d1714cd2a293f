package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"faultline.dev/faultline/test/env"
)

// timed are the tests, by their folder, that compare times or rates: an emulated
// machine that stands still for a while is enough to let one fail. All others
// have to pass at once, and so has everything on the host.
var timed = map[string][]string{
	"faults/ifb": {"TestTheTargetAloneIsDelayed", "TestAServerIsDelayed", "TestStreamsArriveWhole", "TestLoopback"},
	"faults/network": {
		"TestBandwidthIsTheRate", "TestReceivedBandwidthIsTheRate", "TestTBFIsTheRate", "TestNetemHoldsAndDoubles",
		"TestLatencyIsTheTargetsAlone", "TestLatencyEverywhere", "TestLatencyOfTimedPackets", "TestNothingIsLostToTheQueue",
		"TestReceivedPacketsAreLateByTheSeed", "TestBothDirectionsAreTwoDelays", "TestReorderIsThatOfTheSeed",
		"TestReorderLossAndLatencyShareTheirPackets", "TestPinnedReorderIsAdopted", "TestRoundTripsAreLikeNetems", "TestJitterIsLikeNetems",
	},
	"test/bench": {"TestLatencyIsLikeNetemToBulkTCP", "TestLossIsLikeNetemToBulkTCP"},
}

const (
	// mostUnsteady is how many tests of a whole run may be tried again: more have
	// not failed by accident.
	mostUnsteady = 3
	// tries is how often each has to pass then.
	tries = 3
)

// tryAgain runs timed tests that have failed in a guest again, in one that has
// nothing else to do. Those that pass each time are unsteady, and no failures.
func (m *matrix) tryAgain(ctx context.Context, runs []kernelRun) {
	var total int
	for _, k := range runs {
		total += len(m.unsteady(k))
	}
	if total > mostUnsteady {
		return
	}
	for i := range runs {
		if results := m.unsteady(runs[i]); len(results) > 0 && ctx.Err() == nil {
			m.tryAgainOn(ctx, &runs[i], results)
		}
	}
}

func (m *matrix) tryAgainOn(ctx context.Context, k *kernelRun, results []*result) {
	wanted := m.packagesOf(*k)
	for _, p := range wanted {
		fmt.Fprintf(m.w, "again, %d times alone on %s: %s %s\n", tries, k.Kernel, p.ImportPath, strings.Join(p.Tests, ", "))
	}
	second := m.guest(ctx, k.Kernel, "-again", slices.Repeat(wanted, tries))
	k.Elapsed += second.Elapsed
	if len(second.problems()) > 0 {
		return
	}
	for _, r := range results {
		r.Outcome = unsteady
	}
}

// unsteady are the failed results of timed tests. What a fault has not taken
// back is never a matter of time.
func (m *matrix) unsteady(k kernelRun) (list []*result) {
	for i, p := range k.Packages {
		folder := m.folder(p.ImportPath)
		for j := range p.Results {
			r := &k.Packages[i].Results[j]
			if r.Outcome == failed && slices.Contains(timed[folder], r.topLevel()) && !strings.Contains(r.Output, env.LeftBehind) {
				list = append(list, r)
			}
		}
	}
	return list
}

// packagesOf are the packages with the timed tests that have failed.
func (m *matrix) packagesOf(k kernelRun) (list []testPackage) {
	for _, p := range k.Wanted {
		var tests []string
		for _, ran := range k.Packages {
			if ran.ImportPath != p.ImportPath {
				continue
			}
			for _, r := range m.unsteady(kernelRun{Packages: []packageRun{ran}}) {
				if name := r.topLevel(); !slices.Contains(tests, name) {
					tests = append(tests, name)
				}
			}
		}
		if len(tests) > 0 {
			p.Tests = tests
			list = append(list, p)
		}
	}
	return list
}

// folder of a package, from the module's root.
func (m *matrix) folder(importPath string) string {
	for _, p := range m.packages {
		if p.ImportPath == importPath {
			folder, err := filepath.Rel(m.root, p.Dir)
			if err == nil {
				return folder
			}
		}
	}
	return ""
}

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
		"TestReceivedReorderIsThatOfTheSeed", "TestReceivedReorderWithLatencyAndDuplicates", "TestReorderOfBothDirections",
		"TestReorderLossAndLatencyShareTheirPackets", "TestRoundTripsAreLikeNetems", "TestJitterIsLikeNetems",
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
	total := 0
	for _, k := range runs {
		for i := range k.Packages {
			total += len(m.excusable(&k.Packages[i]))
		}
	}
	if total > mostUnsteady {
		return
	}
	for i := range runs {
		if ctx.Err() == nil {
			m.tryAgainOn(ctx, &runs[i])
		}
	}
}

func (m *matrix) tryAgainOn(ctx context.Context, k *kernelRun) {
	var wanted []testPackage
	var results []*result
	for i := range k.Packages {
		failures := m.excusable(&k.Packages[i])
		if len(failures) == 0 {
			continue
		}
		var tests []string
		for _, r := range failures {
			tests = append(tests, r.topLevel())
		}
		p := *m.find(k.Packages[i].ImportPath)
		p.Tests = distinct(tests)
		fmt.Fprintf(m.w, "again, %d times alone on %s: %s %s\n", tries, k.Kernel, p.ImportPath, strings.Join(p.Tests, ", "))
		wanted, results = append(wanted, p), append(results, failures...)
	}
	if len(wanted) == 0 {
		return
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

// excusable are the failed results of timed tests. What a fault has not taken
// back is never a matter of time.
func (m *matrix) excusable(p *packageRun) (list []*result) {
	ran := m.find(p.ImportPath)
	if ran == nil {
		return nil
	}
	folder, err := filepath.Rel(m.root, ran.Dir)
	if err != nil {
		return nil
	}
	for i := range p.Results {
		r := &p.Results[i]
		if r.Outcome == failed && slices.Contains(timed[folder], r.topLevel()) && !strings.Contains(r.Output, env.LeftBehind) {
			list = append(list, r)
		}
	}
	return list
}

// find returns nil for a package that is none of this run.
func (m *matrix) find(importPath string) *testPackage {
	i := slices.IndexFunc(m.packages, func(p testPackage) bool { return p.ImportPath == importPath })
	if i < 0 {
		return nil
	}
	return &m.packages[i]
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// hostKernel stands for this machine's own kernel where a kernel's id is asked.
const hostKernel = "host"

// kernelRun is what all packages did on one kernel.
type kernelRun struct {
	Kernel string
	// Wanted are the packages that have to run.
	Wanted   []testPackage
	Packages []packageRun
	// Problem is what went wrong beside the packages: the guest did not boot.
	Problem string
	Elapsed time.Duration
	Log     string

	suffix string // of its files' names
	hung   bool   // ended by errHangs
}

func (k kernelRun) count(o outcome) int {
	n := 0
	for _, p := range k.Packages {
		n += p.count(o)
	}
	return n
}

// problems are the reasons why a kernel's run is not a success, one text each.
func (k kernelRun) problems() []string {
	var all []string
	if k.Problem != "" {
		all = append(all, k.Problem)
	}
	seen := map[string]bool{}
	for _, p := range k.Packages {
		seen[p.ImportPath] = true
		for _, problem := range p.problems(k.Kernel) {
			all = append(all, p.ImportPath+" "+problem)
		}
	}
	for _, w := range k.Wanted {
		if !seen[w.ImportPath] {
			all = append(all, w.ImportPath+" never ran")
		}
	}
	if k.count(passed)+k.count(failed) == 0 {
		all = append(all, "no test ran")
	}
	return all
}

// problems are the reasons why a package's run on a kernel is not a success.
func (p packageRun) problems(kernel string) (all []string) {
	if p.Problem != "" {
		all = append(all, fmt.Sprintf("%s; its last output:\n%s", p.Problem, indent(tail(p.Output, 30))))
	}
	for _, r := range p.Results {
		switch {
		case r.Outcome == failed:
			all = append(all, fmt.Sprintf("%s failed:\n%s", r.Test, indent(tail(r.Output, 60))))
		case r.Outcome == skipped && kernel != hostKernel && !declared(r.why(), kernel):
			all = append(all, fmt.Sprintf("%s was skipped for a reason that test/vm/kernels.yaml does not know: %s", r.Test, r.why()))
		}
	}
	return all
}

// declared says whether a skip is one of kernels.Missing, which asks
// kernels.yaml what this kernel has to support and fails the test otherwise.
func declared(why, kernel string) bool {
	return strings.Contains(why, " is not declared for "+kernel+":")
}

// print writes every problem in full, why tests were skipped on each kernel, and
// what ran there. It returns the number of problems. The names of subtests that
// were skipped are in the kernel's log.
func print(w io.Writer, runs []kernelRun) int {
	total := 0
	problems := make([][]string, len(runs))
	for i, k := range runs {
		problems[i] = k.problems()
		total += len(problems[i])
		for _, p := range problems[i] {
			fmt.Fprintf(w, "\nPROBLEM on %s: %s\n", k.Kernel, p)
		}
	}

	for _, k := range runs {
		reasons := map[string][]string{}
		for _, p := range k.Packages {
			for _, r := range p.Results {
				switch r.Outcome {
				case skipped:
					reasons[r.why()] = append(reasons[r.why()], r.topLevel())
				case unsteady:
					fmt.Fprintf(w, "\nUNSTEADY on %s: %s %s failed once, and passed %d times alone:\n%s\n",
						k.Kernel, p.ImportPath, r.Test, tries, indent(tail(r.Output, 60)))
				}
			}
		}
		if len(reasons) > 0 {
			fmt.Fprintf(w, "\nskipped on %s:\n", k.Kernel)
		}
		for _, why := range slices.Sorted(maps.Keys(reasons)) {
			fmt.Fprintf(w, "  %s\n    %d: %s\n", why, len(reasons[why]), strings.Join(distinct(reasons[why]), ", "))
		}
	}

	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kernel\tran\tpassed\tfailed\tunsteady\tskipped\tproblems\ttime\toutput")
	ok, bad, skips := 0, 0, 0
	for i, k := range runs {
		p, f, u, s := k.count(passed), k.count(failed), k.count(unsteady), k.count(skipped)
		ok, bad, skips = ok+p, bad+f, skips+s
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n",
			k.Kernel, p+f+u, p, f, u, s, len(problems[i]), k.Elapsed.Round(time.Second), k.Log)
	}
	table.Flush()
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", ok, bad, skips)
	return total
}

// distinct names, in their order.
func distinct(all []string) (names []string) {
	for _, name := range all {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

// tail is the last lines of a text.
func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{"..."}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

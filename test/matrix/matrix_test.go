package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"faultline.dev/faultline/test/vm/kernels"
)

// tree is a module with every kind of test that the matrix has to tell apart.
var tree = map[string]string{
	"go.mod": "module example.com/tree\n\ngo 1.26\n",
	"good/good_test.go": `package good

import "testing"

func TestUnprivileged(t *testing.T) { t.Fatal("this test is not for the matrix") }
`,
	"good/good_privileged_test.go": `//go:build privileged

package good

import (
	"fmt"
	"testing"
)

func TestPasses(t *testing.T) { fmt.Print("no newline at the end") }

func TestSkips(t *testing.T) {
	t.Log("probing")
	t.Skip("tcx is not declared for debian-6.1: it came with Linux 6.6")
}

func TestParent(t *testing.T) {
	t.Run("passes", func(t *testing.T) {})
	t.Run("skips", func(t *testing.T) { t.Skip("no reason that anybody knows") })
}

func Testhelper() {}
`,
	"bad/bad_privileged_test.go": `//go:build privileged

package bad

import "testing"

func TestFails(t *testing.T) {
	t.Run("inner", func(t *testing.T) { t.Error("two packets were lost") })
}

func TestPanics(t *testing.T) { panic("oh") }

func TestNeverStarts(t *testing.T) {}
`,
	"leak/leak_privileged_test.go": `//go:build privileged

package leak

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { m.Run(); os.Exit(7) }

func TestPasses(t *testing.T) {}
`,
	"hangs/hangs_privileged_test.go": `//go:build privileged

package hangs

import "testing"

func TestHangs(t *testing.T) { select {} }
`,
	"plain/plain_test.go": "package plain\n\nimport \"testing\"\n\nfunc TestNot(t *testing.T) {}\n",
}

func newMatrix(t *testing.T, patterns ...string) *matrix {
	t.Helper()
	return newMatrixOf(t, tree, patterns...)
}

func newMatrixOf(t *testing.T, tree map[string]string, patterns ...string) *matrix {
	t.Helper()
	root := t.TempDir()
	for name, content := range tree {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	packages, err := findPackages(t.Context(), root, patterns)
	if err != nil {
		t.Fatal(err)
	}
	if err := compile(t.Context(), root, filepath.Join(root, "build"), packages); err != nil {
		t.Fatal(err)
	}
	return &matrix{options: options{limit: 3 * time.Second, boot: time.Minute}, root: root, packages: packages, w: io.Discard}
}

func TestFindsPrivilegedTestsOnly(t *testing.T) {
	m := newMatrix(t, "./...")
	got := map[string][]string{}
	for _, p := range m.packages {
		got[p.ImportPath] = p.Tests
	}
	want := map[string][]string{
		"example.com/tree/bad":   {"TestFails", "TestPanics", "TestNeverStarts"},
		"example.com/tree/good":  {"TestPasses", "TestSkips", "TestParent"},
		"example.com/tree/hangs": {"TestHangs"},
		"example.com/tree/leak":  {"TestPasses"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTellsWhatEveryTestDid(t *testing.T) {
	m := newMatrix(t, "./...")
	k := m.kernel(t.Context(), kernelRun{Kernel: hostKernel, Wanted: m.packages}, nil)
	if k.Problem != "" {
		t.Fatal(k.Problem)
	}
	type line struct {
		Package, Test string
		Outcome       outcome
	}
	var got []line
	runs := map[string]packageRun{}
	for _, p := range k.Packages {
		name := filepath.Base(p.ImportPath)
		runs[name] = p
		for _, r := range p.Results {
			got = append(got, line{name, r.Test, r.Outcome})
		}
	}
	want := []line{
		{"bad", "TestFails/inner", failed},
		{"bad", "TestPanics", failed},
		{"good", "TestPasses", passed},
		{"good", "TestSkips", skipped},
		{"good", "TestParent/passes", passed},
		{"good", "TestParent/skips", skipped},
		{"hangs", "TestHangs", failed},
		{"leak", "TestPasses", passed},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, want := runs["good"].Results[1].why(), "tcx is not declared for debian-6.1: it came with Linux 6.6"; got != want {
		t.Errorf("the skip's reason is %q, want %q", got, want)
	}
	if got := runs["bad"].Results[0].Output; !strings.Contains(got, "two packets were lost") {
		t.Errorf("the failed test's output is %q", got)
	}
	if runs["good"].Problem != "" {
		t.Errorf("the good package has a problem: %s", runs["good"].Problem)
	}
	if got := runs["leak"].Problem; !strings.Contains(got, "status 7 and no failed test") {
		t.Errorf("a binary that fails without a failed test: %q", got)
	}

	var report strings.Builder
	if n := print(&report, []kernelRun{k}); n != 4 {
		t.Errorf("%d problems, want 4:\n%s", n, &report)
	}
	if !strings.Contains(report.String(), "\n3 passed, 3 failed, 2 skipped\n") {
		t.Errorf("the closing line is missing:\n%s", &report)
	}
}

func TestSkipThatTheListOfKernelsDoesNotKnowIsAProblem(t *testing.T) {
	m := newMatrix(t, "./good")
	k := m.kernel(t.Context(), kernelRun{Kernel: hostKernel, Wanted: m.packages}, nil)
	if problems := k.problems(); len(problems) != 0 {
		t.Errorf("on the host: %q", problems)
	}
	k.Kernel = "debian-6.1"
	problems := k.problems()
	if len(problems) != 1 || !strings.Contains(problems[0], "TestParent/skips was skipped") {
		t.Errorf("on its kernel: %q", problems)
	}
	k.Kernel = "debian-6.12"
	if problems := k.problems(); len(problems) != 2 {
		t.Errorf("on another kernel: %q", problems)
	}
}

func TestGuestThatDiesIsAProblem(t *testing.T) {
	m := newMatrix(t, "./good", "./leak")
	// A bench that shows the start of the first package's output and is gone.
	bench := filepath.Join(m.root, "bench")
	text := "#!/bin/sh\necho kernel panic >&2\nprintf '\\n" + beginMark + "example.com/tree/good\\n=== RUN   TestPasses\\n'\nexit 125\n"
	if err := os.WriteFile(bench, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	k := m.kernel(t.Context(), kernelRun{Kernel: "debian-6.1", Wanted: m.packages}, []string{bench})
	all := strings.Join(k.problems(), "\n")
	for _, want := range []string{
		"exit status 125", "kernel panic", "binary never ended", "TestPasses failed", "it did not end", "example.com/tree/leak never ran",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
}

func TestGuestThatHangsIsEnded(t *testing.T) {
	m := newMatrix(t, "./good")
	m.boot = 100 * time.Millisecond
	k := m.kernel(t.Context(), kernelRun{Kernel: "debian-6.1", Wanted: m.packages}, []string{"/bin/sh", "-c", "exec sleep 3600"})
	if all := strings.Join(k.problems(), "\n"); !strings.Contains(all, errHangs.Error()) || !strings.Contains(all, "no test ran") {
		t.Errorf("problems: %s", all)
	}
}

func TestFoldersThatRunElsewhereAreLeftOut(t *testing.T) {
	m := newMatrix(t, "./...")
	var left []string
	for _, p := range without(m.root, m.packages, []string{"good", "ba"}, nil) {
		left = append(left, filepath.Base(p.ImportPath))
	}
	if diff := cmp.Diff([]string{"bad", "hangs", "leak"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestASampleOfAFolderRuns(t *testing.T) {
	m := newMatrix(t, "./good", "./bad")
	got := map[string][]string{}
	for _, p := range without(m.root, m.packages, []string{"bad"}, []string{"TestPanics"}) {
		got[filepath.Base(p.ImportPath)] = p.Tests
	}
	want := map[string][]string{"bad": {"TestPanics"}, "good": {"TestPasses", "TestSkips", "TestParent"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestASampleNamesTests(t *testing.T) {
	m := newMatrix(t, "./good")
	m.kernels = []kernels.Kernel{{ID: "debian-6.1", Sample: []string{"TestPasses"}}}
	if err := m.checkSamples(); err != nil {
		t.Error(err)
	}
	m.kernels[0].Sample = []string{"TestPassed"}
	if err := m.checkSamples(); err == nil || !strings.Contains(err.Error(), "TestPassed") {
		t.Errorf("a test that there is not: %v", err)
	}
}

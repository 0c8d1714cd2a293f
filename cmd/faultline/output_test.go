package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/agent/target"
	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

func TestExitCodeOfErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{document.Errors{{Message: "wrong"}}, 2},
		{usage(errors.New("wrong")), 2},
		{fmt.Errorf("x is %w", fault.ErrNotBuilt), 2},
		{fmt.Errorf("%w: both", engine.ErrConflict), 2},
		{fmt.Errorf("target: %w", target.ErrInvalid), 2},
		{fmt.Errorf("x is %w", fault.ErrUnavailable), 3},
		{target.ErrNoCgroup2, 3},
		{fmt.Errorf("target: %w", target.ErrNotFound), 3},
		{fmt.Errorf("target: %w", target.ErrProtected), 3},
		{fmt.Errorf("%w: disk full", journal.ErrUnwritable), 3},
		{engine.ErrStopped, 3},
		{errors.New("anything else"), 3},
		{errors.Join(document.Errors{{Message: "wrong"}}, engine.ErrRevert), 6},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exit code of %v is %d, wanted %d", c.err, got, c.want)
		}
	}
}

func TestExitCodeOfResults(t *testing.T) {
	for _, c := range []struct {
		verdict  v1.Verdict
		rollback v1.Rollback_State
		err      error
		want     int
	}{
		{v1.Verdict_PASSED, v1.Rollback_VERIFIED, nil, 0},
		{v1.Verdict_FAILED, v1.Rollback_VERIFIED, nil, 1},
		{v1.Verdict_NO_EFFECT, v1.Rollback_VERIFIED, nil, 4},
		{v1.Verdict_ABORTED, v1.Rollback_VERIFIED, nil, 5},
		{v1.Verdict_ERROR, v1.Rollback_VERIFIED, fault.ErrNotBuilt, 2},
		{v1.Verdict_ERROR, v1.Rollback_VERIFIED, errors.New("no such interface"), 3},
		{v1.Verdict_ERROR, v1.Rollback_VERIFIED, nil, 3},
		// A failed revert wins over everything.
		{v1.Verdict_PASSED, v1.Rollback_FAILED, nil, 6},
		{v1.Verdict_ABORTED, v1.Rollback_FAILED, nil, 6},
		{v1.Verdict_ERROR, v1.Rollback_VERIFIED, errors.Join(fault.ErrNotBuilt, engine.ErrRevert), 6},
		// A pass with an error beside it is no pass.
		{v1.Verdict_PASSED, v1.Rollback_VERIFIED, errors.New("closing the journal"), 5},
	} {
		got := resultCode(&v1.Result{Verdict: c.verdict, Rollback: c.rollback}, c.err)
		if got != c.want {
			t.Errorf("exit code of %v, %v, %v is %d, wanted %d", c.verdict, c.rollback, c.err, got, c.want)
		}
	}
}

func TestWrapNeverExceedsItsWidth(t *testing.T) {
	text := "target /sys/fs/cgroup/a-very-long-name-of-a-cgroup is one word that is wider than the line"
	for width := 1; width < 100; width++ {
		lines := wrap(text, width)
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > width {
				t.Errorf("width %d: %q has %d columns", width, l, n)
			}
		}
		if got := strings.Join(strings.Fields(strings.Join(lines, "")), ""); got != strings.ReplaceAll(text, " ", "") {
			t.Errorf("width %d: text is lost: %q", width, lines)
		}
	}
	if got := wrap("a b", 0); len(got) != 1 {
		t.Errorf("without a limit the text became %q", got)
	}
}

func TestTable(t *testing.T) {
	p := &page{width: 40}
	p.table([]string{"NAME", "COUNT", "WHAT"}, [][]cell{
		{text("one"), number(uint64(1234567)), text("several words that don't fit")},
		{text("second"), number(2), text("short")},
	})
	want := `NAME        COUNT  WHAT
one     1,234,567  several words that
                   don't fit
second          2  short
`
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Error(diff)
	}
}

// sampleStatus is a run in its second step, with long names and bad characters.
func sampleStatus(now time.Time) *v1.RunStatus {
	return &v1.RunStatus{
		RunId: "20261122-070000-00000000",
		Phase: "second step",
		Faults: []*v1.FaultResult{
			{Name: "first", Mechanism: "tcx", State: v1.FaultState_REVERTED, StartTime: timestamppb.New(now), Matched: 10, Injected: 3},
			{Name: "second", Mechanism: "cgroup_skb", State: v1.FaultState_ACTIVE, StartTime: timestamppb.New(now.Add(-5 * time.Second)),
				Matched: 2000, Injected: 500, Missed: 7, Warnings: []string{"name db.example.com has gone away\nand more"}},
			{Name: "third", Mechanism: "tcx", State: v1.FaultState_PENDING},
		},
		Probes: []*v1.ProbeResult{
			{Name: "good", Attempts: 3},
			{Name: "bad", Attempts: 3, Failures: 2, Error: "expected 200\x1b[2J, got 503"},
			{Name: "later"},
		},
	}
}

func sampleView(width, height int, out io.Writer) *view {
	now := time.Unix(1_800_000_000, 0)
	e := &env{
		stdout: out, stderr: out,
		terminal: func(io.Writer) (size, bool) { return size{width, height}, true },
		getenv:   func(string) string { return "" },
		now:      func() time.Time { return now },
	}
	v := newView(&app{env: e, talk: &talk{out: out}, noColor: true}, &v1.Experiment{
		Metadata: &v1.Metadata{Name: "sample"},
		Spec: &v1.ExperimentSpec{Steps: []*v1.Step{{Faults: []*v1.Fault{
			{Name: "second", Duration: durationpb.New(20 * time.Second)},
		}}}},
	})
	v.status = sampleStatus(now)
	return v
}

func TestView(t *testing.T) {
	want := []string{
		"sample  20261122-070000-00000000",
		"second step [##########..............................] 15s left of 20s",
		"  first   reverted  matched 10  injected 3 (30.0 %)  by tcx",
		"  second  active    matched 2,000  injected 500 (25.0 %)  missed 7  by cgroup_skb",
		"    warning: name db.example.com has gone away and more",
		"  third   pending   by tcx",
		"probes",
		"  good  ok  3 attempts",
		"  bad  failed 2 of 3: expected 200 [2J, got 503",
		"  later  waiting",
		"Ctrl-C aborts and takes everything back",
	}
	if diff := cmp.Diff(want, sampleView(100, 40, io.Discard).lines()); diff != "" {
		t.Error(diff)
	}
}

// A line that wraps or a view that scrolls could not be drawn over.
func TestViewStaysInsideTheTerminal(t *testing.T) {
	for width := 12; width < 120; width++ {
		for _, height := range []int{5, 8, 40} {
			v := sampleView(width, height, io.Discard)
			v.redraw()
			for i, w := range v.drawn {
				if w >= width {
					t.Errorf("width %d: line %d has %d columns", width, i, w)
				}
			}
			if len(v.drawn) > height-2 {
				t.Errorf("height %d: %d lines", height, len(v.drawn))
			}
		}
	}
}

// What others say comes above the view, which is drawn again below.
func TestTalkAboveTheView(t *testing.T) {
	var out strings.Builder
	v := sampleView(100, 40, &out)
	v.talk.show(v)
	lines := len(v.drawn)
	out.Reset()
	fmt.Fprintln(v.talk, "a word")
	if want := fmt.Sprintf("\x1b[%dA\r\x1b[Ja word\n", lines); !strings.HasPrefix(out.String(), want) {
		t.Errorf("output begins %q, wanted %q", out.String()[:min(40, out.Len())], want)
	}
	if !strings.HasSuffix(out.String(), "takes everything back\x1b[K\n\x1b[J") {
		t.Errorf("the view is not drawn again: %q", out.String())
	}
	out.Reset()
	v.talk.show(nil)
	fmt.Fprint(v.talk, "the end")
	if want := fmt.Sprintf("\x1b[%dA\r\x1b[Jthe end", lines); out.String() != want {
		t.Errorf("output is %q, wanted %q", out.String(), want)
	}
}

func TestColourOnlyOnATerminalThatWantsIt(t *testing.T) {
	for _, c := range []struct {
		name     string
		terminal bool
		noColor  bool
		vars     map[string]string
		want     bool
	}{
		{"terminal", true, false, nil, true},
		{"pipe", false, false, nil, false},
		{"--no-color", true, true, nil, false},
		{"NO_COLOR", true, false, map[string]string{"NO_COLOR": "1"}, false},
		{"dumb terminal", true, false, map[string]string{"TERM": "dumb"}, false},
	} {
		a := &app{noColor: c.noColor, env: &env{
			terminal: func(io.Writer) (size, bool) { return size{80, 24}, c.terminal },
			getenv:   func(name string) string { return c.vars[name] },
		}}
		if got := a.style(io.Discard).on; got != c.want {
			t.Errorf("%s: colour is %v, wanted %v", c.name, got, c.want)
		}
	}
}

func TestReports(t *testing.T) {
	dir := t.TempDir()
	jsonFile, junitFile := filepath.Join(dir, "out.json"), filepath.Join(dir, "out.xml")
	if err := os.WriteFile(jsonFile, []byte("the one before"), 0o640); err != nil {
		t.Fatal(err)
	}
	open := func() reports {
		t.Helper()
		r, err := parseReports([]string{"json=" + jsonFile, "junit=" + junitFile})
		if err == nil {
			err = r.open()
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}

	// Opening and giving up changes nothing.
	open().discard()
	if b, err := os.ReadFile(jsonFile); err != nil || string(b) != "the one before" {
		t.Errorf("the report before is %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}

	r := open()
	if err := r.write(&v1.Result{Name: "sample", Verdict: v1.Verdict_PASSED, StartTime: timestamppb.Now(), EndTime: timestamppb.Now()}); err != nil {
		t.Fatal(err)
	}
	r.discard()
	b, err := os.ReadFile(jsonFile)
	if err != nil || !strings.Contains(string(b), `"verdict": "PASSED"`) {
		t.Errorf("the report is %q, %v", b, err)
	}
	if st, err := os.Stat(jsonFile); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("its mode is not what it was: %v, %v", st.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestJUnit(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	result := &v1.Result{
		Name: "sample", RunId: "id", Seed: 42, Verdict: v1.Verdict_NO_EFFECT, Reason: "bad \x00 character",
		Rollback: v1.Rollback_FAILED, Differences: []string{"eth0: left behind: <filter>"},
		StartTime: timestamppb.New(start), EndTime: timestamppb.New(start.Add(1500 * time.Millisecond)),
		Faults: []*v1.FaultResult{
			{Name: "hit", Fault: "networkLoss", State: v1.FaultState_REVERTED, Injected: 1,
				StartTime: timestamppb.New(start), EndTime: timestamppb.New(start.Add(time.Second))},
			{Name: "idle", Fault: "networkLoss", State: v1.FaultState_REVERTED},
			{Name: "broken", Fault: "networkLoss", State: v1.FaultState_NOT_INJECTED, Error: "no way"},
			{Name: "later", Fault: "networkLoss", State: v1.FaultState_PENDING},
		},
		Probes: []*v1.ProbeResult{{Name: "good", Passed: true, Attempts: 2}, {Name: "bad", Attempts: 2, Failures: 1, Error: "got 503"}},
	}
	b, err := junit(result)
	if err != nil {
		t.Fatal(err)
	}
	var back junitSuites
	if err := xml.Unmarshal(b, &back); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	suite := back.Suites[0]
	if suite.Tests != 7 || suite.Failures != 2 || suite.Errors != 2 || suite.Skipped != 1 || suite.Time != "1.500" {
		t.Errorf("tests %d, failures %d, errors %d, skipped %d, time %s", suite.Tests, suite.Failures, suite.Errors, suite.Skipped, suite.Time)
	}
	outcome := map[string]string{}
	for _, c := range suite.Cases {
		switch {
		case c.Error != nil:
			outcome[c.Name] = "error"
		case c.Failure != nil:
			outcome[c.Name] = "failure"
		case c.Skipped != nil:
			outcome[c.Name] = "skipped"
		default:
			outcome[c.Name] = "passed"
		}
	}
	want := map[string]string{
		"hit": "passed", "idle": "failure", "broken": "error", "later": "skipped", "good": "passed", "bad": "failure", "rollback": "error",
	}
	if diff := cmp.Diff(want, outcome); diff != "" {
		t.Error(diff)
	}
}

// Every field of every fault can be given as a flag, and reads back as the
// document that it makes.
func TestEveryKindHasFlags(t *testing.T) {
	for _, name := range kindNames() {
		var out, talk strings.Builder
		code := run(&env{
			args:   []string{"inject", name, "--help"},
			stdin:  strings.NewReader(""),
			stdout: &out, stderr: &talk,
			terminal: func(io.Writer) (size, bool) { return size{}, false },
			getenv:   func(string) string { return "" },
			ctx:      t.Context(),
			now:      time.Now,
		})
		if code != 0 {
			t.Errorf("%s: exit code %d: %s", name, code, talk.String())
		}
		md := kindField(name).Message()
		for i := range md.Fields().Len() {
			if flag := "--" + kebab(md.Fields().Get(i).JSONName()) + " "; !strings.Contains(out.String(), flag) {
				t.Errorf("%s has no flag %s", name, flag)
			}
		}
	}
}

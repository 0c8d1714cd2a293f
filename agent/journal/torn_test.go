package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// put writes a journal as a dead run.
func (b *bench) put(id string, text []byte) {
	b.t.Helper()
	dir := filepath.Join(b.state, runsName, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	for name, data := range map[string][]byte{lockName: nil, journalName: text} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

// sample is a journal of three records, and where the last line begins.
func sample(t *testing.T) (b *bench, text []byte, last int) {
	t.Helper()
	b = newBench(t)
	dir := b.dead("r1", "one", "two", "three")
	text, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	return b, text, bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
}

func TestLastRecordTornAtEveryByte(t *testing.T) {
	t.Parallel()
	b, text, last := sample(t)
	for size := last; size <= len(text); size++ {
		b.put("r1", text[:size])
		run := b.list()[0]
		want := 2
		if size == len(text) {
			want = 3
		}
		if len(run.Open) != want || run.Err != nil || run.Torn != (size > last && size < len(text)) {
			t.Fatalf("%d of %d bytes: %d open, torn %v, error %v", size-last, len(text)-last, len(run.Open), run.Torn, run.Err)
		}
		report := b.revert()
		if len(report.Undone) != want || len(report.Failed) != 0 {
			t.Fatalf("%d of %d bytes: report %v", size-last, len(text)-last, report)
		}
	}
	b.wantEmpty()
}

// A record that is there to its end was confirmed: when it can't be read that
// is damage, and nobody may take the run for clean.
func TestLastRecordWithAnyByteWrong(t *testing.T) {
	t.Parallel()
	b, text, last := sample(t)
	for i := last; i < len(text); i++ {
		bad := bytes.Clone(text)
		bad[i] ^= 0xff
		b.put("r1", bad)
		run := b.list()[0]
		torn := i == len(text)-1
		if len(run.Open) != 2 || run.Torn != torn || (run.Err == nil) != torn {
			t.Fatalf("byte %d: %d open, torn %v, error %v", i-last, len(run.Open), run.Torn, run.Err)
		}
		if report := b.revert(); len(report.Undone) != 2 || len(report.Failed) == 0 == !torn {
			t.Fatalf("byte %d: report %v", i-last, report)
		}
	}
}

// What a file system has not written when the power goes reads as zeros, also
// in front of a part that was written.
func TestLastRecordWithZerosIsTorn(t *testing.T) {
	t.Parallel()
	b, text, last := sample(t)
	for i := last + 1; i < len(text); i++ {
		for _, bad := range [][]byte{
			append(bytes.Clone(text[:i]), make([]byte, len(text)-i)...),
			append(append(bytes.Clone(text[:last]), make([]byte, i-last)...), text[i:]...),
		} {
			b.put("r1", bad)
			if report := b.revert(); len(report.Undone) != 2 || len(report.Failed) != 0 {
				t.Fatalf("byte %d: report %v", i-last, report)
			}
		}
	}
	b.wantEmpty()
}

func TestRecordAfterATornOneIsRead(t *testing.T) {
	t.Parallel()
	b, text, last := sample(t)
	b.put("r1", text[:last+20])
	// One undo fails, so that the journal is written to and kept.
	stuck := filepath.Join(b.dir, "two")
	if err := os.Remove(stuck); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(stuck, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if report := b.revert(); len(report.Undone) != 1 || len(report.Failed) != 1 {
		t.Fatalf("report %v", report)
	}
	run := b.list()[0]
	if run.Torn || run.Err != nil || len(run.Open) != 1 || !strings.Contains(run.Open[0].Error, "not empty") {
		t.Errorf("run %+v", run)
	}
}

func TestCorruptLineInTheMiddleIsReportedAndKept(t *testing.T) {
	t.Parallel()
	_, text, _ := sample(t)
	lines := bytes.SplitAfter(text, []byte("\n"))
	for n := range lines[:3] {
		t.Run(fmt.Sprintf("line %d", n+1), func(t *testing.T) {
			b, text, _ := sample(t)
			at := len(bytes.Join(bytes.SplitAfter(text, []byte("\n"))[:n], nil)) + 12
			text[at] ^= 0x01
			b.put("r1", text)
			wantOpen := 2
			if n == 0 { // the line that names the run
				wantOpen = 3
			}
			run := b.list()[0]
			if len(run.Open) != wantOpen || run.Err == nil || !strings.Contains(run.Err.Error(), fmt.Sprintf("line %d", n+1)) {
				t.Fatalf("%d open, error %v", len(run.Open), run.Err)
			}
			report := b.revert()
			if len(report.Undone) != wantOpen || len(report.Failed) != 1 || !strings.Contains(report.Failed[0].Description, run.Dir) {
				t.Errorf("report %v", report)
			}
			if again := b.revert(); len(again.Undone) != 0 || len(again.Failed) != 1 || len(b.list()) != 1 {
				t.Errorf("a run whose record is lost was given up: %v", again)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	var text []byte
	for _, r := range []record{{Type: typeRun, RunID: "r"}, {Type: typeOpen, Seq: 1, Kind: "k", Data: []byte(`{}`)}, {Type: typeDone, Seq: 1}} {
		line, err := r.line()
		if err != nil {
			f.Fatal(err)
		}
		text = append(text, line...)
	}
	f.Add(text)
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := read(b)
		if c.good < 0 || c.good > int64(len(b)) {
			t.Errorf("good is %d of %d", c.good, len(b))
		}
		if c.good > 0 && b[c.good-1] != '\n' {
			t.Error("the good part does not end with a line")
		}
		// Cutting off a torn end must change nothing that counts.
		if again := read(b[:c.good]); len(again.open) != len(c.open) || again.last != c.last {
			t.Errorf("%d open before, %d after", len(c.open), len(again.open))
		}
	})
}

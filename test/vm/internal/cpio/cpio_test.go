package cpio

import (
	"bytes"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type entry struct {
	Name    string
	Mode    int64
	Content string
}

// parse reads an archive as init/initramfs.c of the kernel does.
func parse(t *testing.T, archive []byte) []entry {
	t.Helper()
	align := func(n int) int { return (n + 3) &^ 3 }
	var entries []entry
	for offset := 0; ; {
		if len(archive) < offset+110 || string(archive[offset:offset+6]) != "070701" {
			t.Fatalf("no header at offset %d of %d", offset, len(archive))
		}
		field := func(i int) int64 {
			n, err := strconv.ParseInt(string(archive[offset+6+8*i:offset+14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		name := string(archive[offset+110 : offset+110+int(field(11))-1])
		start := align(offset + 110 + int(field(11)))
		end := start + int(field(6))
		if name == "TRAILER!!!" {
			if align(end) != len(archive) {
				t.Errorf("the archive ends at %d, not at %d: the next one would not be aligned", len(archive), align(end))
			}
			return entries
		}
		entries = append(entries, entry{name, field(1), string(archive[start:end])})
		offset = align(end)
	}
}

func TestArchiveHoldsWhatWasAdded(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.File("/a/b/odd", 0o755, []byte("12345"))
	w.File("a/b/empty", 0o600, nil)
	w.Dir("/c/")
	w.Char("/dev/console", 0o600, 5, 1)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"a", 0o040755, ""}, {"a/b", 0o040755, ""}, {"a/b/odd", 0o100755, "12345"}, {"a/b/empty", 0o100600, ""},
		{"c", 0o040755, ""}, {"dev", 0o040755, ""}, {"dev/console", 0o020600, ""},
	}
	if diff := cmp.Diff(want, parse(t, b.Bytes())); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

type brokenWriter struct{ after int }

var errBroken = errors.New("broken")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestCloseReturnsTheFirstError(t *testing.T) {
	w := NewWriter(&brokenWriter{after: 200})
	w.File("a", 0o644, make([]byte, 1000))
	w.File("b", 0o644, nil)
	if err := w.Close(); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTailKeepsTheEndWithoutTerminalSequences(t *testing.T) {
	tail := NewTail(25)
	for _, text := range []string{"a long beginning\r\n", "\x1bc\x1b[?7lone\r\n", "\x1b[0mtwo\r\n"} {
		if n, err := tail.Write([]byte(text)); err != nil || n != len(text) {
			t.Fatalf("writing %q: %d, %v", text, n, err)
		}
	}
	if diff := cmp.Diff([]string{"one", "two"}, tail.Lines(2)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"two"}, tail.Lines(1)); diff != "" {
		t.Errorf("last line (-want +got):\n%s", diff)
	}
	if got := NewTail(10).Lines(5); got != nil {
		t.Errorf("nothing was written, got %q", got)
	}
}

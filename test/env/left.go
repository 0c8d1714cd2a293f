//go:build linux

package env

import (
	"context"
	"testing"
)

// LeftBehind begins what a test says of something that a fault has not taken
// back. test/matrix never excuses that with a slow machine.
const LeftBehind = "left behind: "

// Unchanged fails the test unless everything is as it was.
func Unchanged(t testing.TB, before, after string) {
	t.Helper()
	if after != before {
		t.Errorf(LeftBehind+"before:\n%s\nafter:\n%s", before, after)
	}
}

// TakeBack reverts what was recorded by r, and fails the test when anything is
// left.
func (r *Recorder) TakeBack(t testing.TB, reverter interface {
	Revert(ctx context.Context) error
}) {
	t.Helper()
	if err := reverter.Revert(context.Background()); err != nil {
		t.Errorf(LeftBehind+"%v", err)
	}
	differences, err := r.Differences()
	if err != nil || len(differences) > 0 {
		t.Errorf(LeftBehind+"%q, %v", differences, err)
	}
	for _, undo := range r.Open() {
		t.Errorf(LeftBehind+"%s", undo.Describe())
	}
}

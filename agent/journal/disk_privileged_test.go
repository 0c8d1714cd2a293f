//go:build privileged

package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onDisk runs fn in a mount namespace of its own with a tmpfs of so many bytes
// at the state directory.
func onDisk(t *testing.T, size int, fn func(t *testing.T, b *bench)) {
	t.Helper()
	b := newBench(t)
	if err := os.MkdirAll(b.state, 0o700); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The thread is never unlocked: it ends with the goroutine, and the
		// namespace and its mounts with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("making a mount namespace: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("making mounts private: %v", err)
			return
		}
		if err := unix.Mount("tmpfs", b.state, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Errorf("mounting tmpfs: %v", err)
			return
		}
		fn(t, b)
	}()
	<-ended
}

func TestFullDiskEndsRecording(t *testing.T) {
	t.Parallel()
	onDisk(t, 64<<10, func(t *testing.T, b *bench) {
		j, err := Create(b.state, "r1", "")
		if err != nil {
			t.Error(err)
			return
		}
		recorded := 0
		var failure error
		for failure == nil && recorded < 10000 {
			u := fileUndo{Path: filepath.Join(b.dir, fmt.Sprint(recorded)), Log: b.log}
			if _, failure = j.Record(u); failure == nil {
				recorded++
			}
		}
		if !errors.Is(failure, ErrUnwritable) || !errors.Is(failure, unix.ENOSPC) {
			t.Errorf("after %d records: %v", recorded, failure)
		}
		// Space comes back; the journal must not be believed again.
		if err := unix.Mount("", b.state, "", unix.MS_REMOUNT, "size=1m"); err != nil {
			t.Errorf("growing the disk: %v", err)
		}
		if _, err := j.Record(fileUndo{}); !errors.Is(err, ErrUnwritable) {
			t.Errorf("recorded on a journal that had failed: %v", err)
		}
		abandon(t, j)
		runs, err := List(b.state)
		if err != nil || len(runs) != 1 || runs[0].Err != nil || len(runs[0].Open) != recorded {
			t.Errorf("%d records were confirmed, the journal has %d, error %v", recorded, len(runs[0].Open), err)
		}
		report, err := Revert(t.Context(), b.state, decode)
		if err != nil || len(report.Undone) != recorded || len(report.Failed) != 0 {
			t.Errorf("undone %d, failed %d, error %v", len(report.Undone), len(report.Failed), err)
		}
	})
}

func TestFullDiskRefusesARun(t *testing.T) {
	t.Parallel()
	onDisk(t, 4<<10, func(t *testing.T, b *bench) {
		if err := os.WriteFile(filepath.Join(b.state, "fill"), make([]byte, 4<<10), 0o600); err != nil {
			t.Errorf("filling the disk: %v", err)
		}
		if _, err := Create(b.state, "r1", ""); !errors.Is(err, ErrUnwritable) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("error %v", err)
		}
		entries, err := os.ReadDir(filepath.Join(b.state, runsName))
		if err != nil || len(entries) != 0 {
			t.Errorf("left: %v, %v", entries, err)
		}
	})
}

func TestFullDiskKeepsNothingFromBeingUndone(t *testing.T) {
	t.Parallel()
	onDisk(t, 64<<10, func(t *testing.T, b *bench) {
		b.dead("r1", "one", "two")
		fill, err := os.Create(filepath.Join(b.state, "fill"))
		if err != nil {
			t.Error(err)
			return
		}
		defer fill.Close()
		for {
			if _, err := fill.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		if report := b.revert(); len(report.Undone) != 2 || len(report.Failed) != 0 {
			t.Errorf("report %v", report)
		}
		b.wantUndone("two", "one")
		b.wantEmpty()
	})
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	onDisk(t, 1<<20, func(t *testing.T, b *bench) {
		b.dead("r1", "one", "two")
		if err := unix.Mount("", b.state, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Errorf("making the disk read-only: %v", err)
			return
		}
		if _, err := Create(b.state, "r2", ""); !errors.Is(err, ErrUnwritable) || !errors.Is(err, unix.EROFS) {
			t.Errorf("error %v", err)
		}
		// Everything is undone; only that it is can't be noted.
		report, err := Revert(t.Context(), b.state, decode)
		if !errors.Is(err, unix.EROFS) || len(report.Undone) != 2 || len(report.Failed) != 0 {
			t.Errorf("report %v, error %v", report, err)
		}
		b.wantUndone("two", "one")
		if err := unix.Mount("", b.state, "", unix.MS_REMOUNT, ""); err != nil {
			t.Errorf("making the disk writable: %v", err)
		}
		if report := b.revert(); len(report.Undone) != 2 {
			t.Errorf("report %v", report)
		}
		b.wantEmpty()
	})
}

//go:build linux

// Package env makes the surroundings of privileged tests: cgroups, network
// namespaces and workloads of their own, which end with the test.
package env

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// CgroupRoot is the cgroup v2 mount point of this machine.
func CgroupRoot(t testing.TB) string {
	t.Helper()
	root, err := kernel.Cgroup2Mount()
	if err != nil {
		t.Fatalf("these tests need cgroup v2: %v", err)
	}
	return root
}

var prober = sync.OnceValues(func() (*kernel.Prober, error) {
	root, err := kernel.Cgroup2Mount()
	return kernel.NewProber(root, slog.New(slog.DiscardHandler)), err
})

// Prober is one for all tests of a program: what it has found out about the
// kernel, it knows.
func Prober(t testing.TB) *kernel.Prober {
	t.Helper()
	p, err := prober()
	if err != nil {
		t.Fatalf("these tests need cgroup v2: %v", err)
	}
	return p
}

// Cgroup makes a cgroup with a name of its own below the root. When the test
// ends, what runs in it is killed and it is removed with its children.
func Cgroup(t testing.TB) fault.Cgroup {
	t.Helper()
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	return cgroupAt(t, filepath.Join(CgroupRoot(t), "faultline-test-"+hex.EncodeToString(random[:])))
}

// Child makes a cgroup inside another one.
func Child(t testing.TB, parent fault.Cgroup, name string) fault.Cgroup {
	t.Helper()
	return cgroupAt(t, filepath.Join(parent.Path, name))
}

func cgroupAt(t testing.TB, path string) fault.Cgroup {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	below := strings.TrimPrefix(path, CgroupRoot(t)+"/")
	cgroup := fault.Cgroup{Path: path, ID: stat.Ino, Level: strings.Count(below, "/") + 1}
	t.Cleanup(func() { removeCgroup(t, cgroup) })
	return cgroup
}

func removeCgroup(t testing.TB, cgroup fault.Cgroup) {
	err := Within(10*time.Second, func() error {
		pids, err := cgroup.Processes()
		for _, pid := range pids {
			err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, fault.ErrGone) {
			return err
		}
		return removeTree(cgroup.Path)
	})
	if err != nil {
		t.Errorf("removing %s: %v", cgroup.Path, err)
	}
}

func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(path, entry.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(path))
}

// Within tries fn again and again until it succeeds, and returns its last
// error when the time is over.
func Within(limit time.Duration, fn func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		// The state of the kernel that is waited for has no event.
		time.Sleep(2 * time.Millisecond)
	}
}

package store

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"faultline.dev/faultline/test/vm/kernels"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	return &Store{
		Dir: t.TempDir(), Tree: t.TempDir(), Ready: filepath.Join(t.TempDir(), "kernels"),
		Log: slog.New(slog.DiscardHandler), Talk: io.Discard,
	}
}

func put(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(filepath.Base(path)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, id string) kernels.Kernel {
	t.Helper()
	k, err := kernels.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGetTakesAStockKernelFromTheCache(t *testing.T) {
	s := newStore(t)
	dir := filepath.Join(s.Dir, "kernels", "debian-6.1")
	image := put(t, filepath.Join(dir, "boot", "vmlinuz"))
	put(t, filepath.Join(dir, "modules", "6.1.0-56-amd64", "modules.dep"))
	got, err := s.Get(context.Background(), find(t, "debian-6.1"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Image{Path: image, Version: "6.1.0-56-amd64", Dir: dir}, got); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
}

func TestGetSaysHowToMendABrokenCache(t *testing.T) {
	s := newStore(t)
	put(t, filepath.Join(s.Dir, "kernels", "debian-6.1", "boot", "vmlinuz"))
	if _, err := s.Get(context.Background(), find(t, "debian-6.1")); err == nil || !strings.Contains(err.Error(), "remove the folder") {
		t.Errorf("got %v", err)
	}
}

func TestGetPrefersAReadyKernelToABuiltOne(t *testing.T) {
	s := newStore(t)
	built := put(t, filepath.Join(s.Dir, "kernels", "ei-6.12", "bzImage"))
	if got, err := s.Get(context.Background(), find(t, "ei-6.12")); err != nil || got.Path != built {
		t.Errorf("without a ready one: got %v, %v", got, err)
	}
	ready := put(t, filepath.Join(s.Ready, "bzImage-6.12-ei"))
	if got, err := s.Get(context.Background(), find(t, "ei-6.12")); err != nil || got.Path != ready || got.Dir != "" {
		t.Errorf("with a ready one: got %v, %v", got, err)
	}
}

func TestLockIsWaitedForUntilTheContextEnds(t *testing.T) {
	s := newStore(t)
	unlock, err := s.lock(context.Background(), "debian-6.1")
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if _, err := s.lock(ctx, "debian-6.1"); !errors.Is(err, cause) {
		t.Errorf("while it is held: got %v", err)
	}
	other, err := s.lock(context.Background(), "debian-7")
	if err != nil {
		t.Fatalf("another kernel's: %v", err)
	}
	other()
	unlock()
	again, err := s.lock(context.Background(), "debian-6.1")
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
}

func TestCacheDirFollowsTheVariables(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"FAULTLINE_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/faultline"},
		{map[string]string{"HOME": "/h"}, "/h/.cache/faultline"},
		{nil, ""},
	} {
		got, err := CacheDir(func(name string) string { return tc.env[name] })
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%v: got %q, %v", tc.env, got, err)
		}
	}
}

func TestPickMirrorTakesTheMachinesOwn(t *testing.T) {
	const (
		both     = "http://m/debian/ bookworm\nhttp://m/debian/ bookworm-updates\nhttp://s/debian-security/ bookworm-security\n"
		mainOnly = "http://m/debian/ bookworm\n"
		other    = "https://apt.example.org/ stable\n"
	)
	for _, tc := range []struct{ targets, suite, want string }{
		{both, "bookworm-backports", "http://m/debian"},
		{both, "bullseye-security", "http://s/debian-security"},
		{mainOnly, "bookworm-security", "http://m/debian-security"},
		{other + both, "trixie-backports", "http://m/debian"},
		{other, "bookworm-backports", ""},
		{"", "bookworm-security", ""},
	} {
		got, err := pickMirror(tc.targets, tc.suite)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s of %q: got %q, %v", tc.suite, tc.targets, got, err)
		}
	}
}

func TestDependenciesTakesTheFirstOfAlternatives(t *testing.T) {
	got := dependencies("Package: linux-image-7.3.4+deb13-amd64\nDepends: dracut | initramfs-tools (>= 0.120), linux-base-7.3.4+deb13-amd64 (= 7.3.4-1)\nRecommends: apparmor\n")
	if diff := cmp.Diff([]string{"dracut", "linux-base-7.3.4+deb13-amd64"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestArrangeKnowsOldAndNewPackages(t *testing.T) {
	for name, files := range map[string][]string{
		"up to 6.12":      {"boot/vmlinuz-1.2", "boot/config-1.2", "lib/modules/1.2/kernel/a.ko"},
		"split, from 7.x": {"usr/lib/modules/1.2/vmlinuz", "usr/lib/modules/1.2/config", "usr/lib/modules/1.2/kernel/a.ko"},
	} {
		t.Run(name, func(t *testing.T) {
			root, dir := t.TempDir(), filepath.Join(t.TempDir(), "kernel")
			for _, file := range files {
				put(t, filepath.Join(root, file))
			}
			if err := arrange(root, dir); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"boot/vmlinuz", "boot/config-1.2", "lib/modules/1.2/kernel/a.ko"} {
				if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := arrange(t.TempDir(), t.TempDir()); err == nil {
		t.Error("no error for packages without modules")
	}
}

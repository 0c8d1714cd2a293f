// Package store gets the kernels that the bench boots and keeps them in a cache
// outside of the working tree.
//
// A stock kernel is one folder with boot/vmlinuz, boot/config-VERSION and
// modules/VERSION, unpacked from Debian's packages. Nothing is installed on the
// machine, and its apt configuration is only read.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/kernels"
)

// Image is a kernel that is ready to boot.
type Image struct {
	Path    string // the bzImage
	Version string // of the stock kernel's modules, such as 6.1.0-56-amd64; empty for EI kernels
	Dir     string // folder with boot/ and modules/VERSION; empty if all is built in
}

// Store is a cache of kernels.
type Store struct {
	Dir   string // the cache, such as ~/.cache/faultline; made when missing
	Tree  string // the working tree
	Ready string // folder of ready EI kernels; need not be there
	Log   *slog.Logger
	Talk  io.Writer // where the output of apt and of builds goes
}

// CacheDir returns the cache's folder: FAULTLINE_CACHE, else faultline in the
// user's cache folder.
func CacheDir(getenv func(string) string) (string, error) {
	if dir := getenv("FAULTLINE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "faultline"), nil
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "faultline"), nil
	}
	return "", errors.New("finding the cache: none of FAULTLINE_CACHE, XDG_CACHE_HOME and HOME is set")
}

// Get returns a kernel, and fetches or builds it first if the cache lacks it.
// Two that want the same kernel at once wait for each other.
func (s *Store) Get(ctx context.Context, k kernels.Kernel) (Image, error) {
	if k.EI != nil {
		return s.getEI(ctx, k)
	}
	dir := filepath.Join(s.Dir, "kernels", k.ID)
	image, err := readStock(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return image, err
	}
	unlock, err := s.lock(ctx, k.ID)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	// Another run may have fetched it while this one waited for the lock.
	if image, err = readStock(dir); !errors.Is(err, os.ErrNotExist) {
		return image, err
	}
	s.Log.Info("fetching kernel", "id", k.ID, "suite", k.Debian.Suite)
	if err := s.fetchStock(ctx, k, dir); err != nil {
		return Image{}, fmt.Errorf("fetching %s: %w", k.ID, err)
	}
	return readStock(dir)
}

// readStock returns the kernel in an unpacked folder. The error is
// os.ErrNotExist when the folder is not there.
func readStock(dir string) (Image, error) {
	if _, err := os.Stat(dir); err != nil {
		return Image{}, err
	}
	versions, err := filepath.Glob(filepath.Join(dir, "modules", "*", "modules.dep"))
	if err != nil || len(versions) != 1 {
		return Image{}, fmt.Errorf("reading %s: %d module folders, want 1; remove the folder to fetch the kernel anew", dir, len(versions))
	}
	return Image{
		Path:    filepath.Join(dir, "boot", "vmlinuz"),
		Version: filepath.Base(filepath.Dir(versions[0])),
		Dir:     dir,
	}, nil
}

// getEI returns a ready kernel or the built one.
func (s *Store) getEI(ctx context.Context, k kernels.Kernel) (Image, error) {
	ready := filepath.Join(s.Ready, k.EI.Image)
	if _, err := os.Stat(ready); err == nil {
		return Image{Path: ready}, nil
	}
	built := filepath.Join(s.Dir, "kernels", k.ID, "bzImage")
	if _, err := os.Stat(built); err == nil {
		return Image{Path: built}, nil
	}
	unlock, err := s.lock(ctx, k.ID)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if _, err := os.Stat(built); err == nil {
		return Image{Path: built}, nil
	}
	s.Log.Info("building kernel, this takes 10 minutes and more", "id", k.ID, "source", k.EI.Package)
	if err := s.buildEI(ctx, k, built); err != nil {
		return Image{}, fmt.Errorf("building %s: %w", k.ID, err)
	}
	return Image{Path: built}, nil
}

// lock takes the lock of one kernel, and returns what gives it back.
func (s *Store) lock(ctx context.Context, id string) (unlock func(), err error) {
	dir := filepath.Join(s.Dir, "kernels")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "."+id+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	// A flock that waits in the kernel would not end with the context.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

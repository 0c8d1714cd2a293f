package store

import (
	"context"
	"os"
	"path/filepath"

	"faultline.dev/faultline/test/vm/kernels"
)

// buildEI builds a kernel with function error injection into the file built,
// which appears whole or not at all.
func (s *Store) buildEI(ctx context.Context, k kernels.Kernel, built string) error {
	dir := filepath.Dir(built)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "."+k.ID+".")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	apt, err := s.newApt(ctx, filepath.Join(work, "apt"), k.EI.Suite, "deb")
	if err != nil {
		return err
	}
	if err := apt.run(ctx, work, "apt-get", "-qq", "download", k.EI.Package); err != nil {
		return err
	}
	source := glob1(filepath.Join(work, k.EI.Package+"_*.deb"))
	image := filepath.Join(work, "bzImage")
	if err := s.command(ctx, work, filepath.Join(s.Tree, "test", "vm", "build-ei"), source, image); err != nil {
		return err
	}
	return os.Rename(image, built)
}

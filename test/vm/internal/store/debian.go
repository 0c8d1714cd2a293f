package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"faultline.dev/faultline/test/vm/kernels"
)

// keyring signs every suite of the list: Debian 12's package holds the keys of
// 11 and 13 too, since 2023.3+deb12u2.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// kernelPart matches the packages that make up a kernel. Up to 6.12 all is in
// linux-image-VERSION; later ones have the image in linux-binary-VERSION, the
// modules in linux-modules-VERSION, and the config in linux-base-VERSION.
var kernelPart = regexp.MustCompile(`^linux-(image|binary|modules|base)-[0-9a-z.+-]+$`)

// fetchStock downloads and unpacks a kernel into dir, which appears whole or not
// at all.
func (s *Store) fetchStock(ctx context.Context, k kernels.Kernel, dir string) error {
	work, err := os.MkdirTemp(filepath.Dir(dir), "."+k.ID+".")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	apt, err := s.newApt(ctx, filepath.Join(work, "apt"), k.Debian.Suite, "deb")
	if err != nil {
		return err
	}
	packages, err := apt.closure(ctx, k.Debian.Package, kernelPart)
	if err != nil {
		return err
	}
	s.Log.Info("downloading", "packages", strings.Join(packages, " "))
	debs := filepath.Join(work, "debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		return err
	}
	if err := apt.run(ctx, debs, "apt-get", append([]string{"-qq", "download"}, packages...)...); err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) == 0 {
		return errors.New("downloading: apt left no package")
	}
	for _, file := range files {
		if err := s.command(ctx, "", "dpkg-deb", "-x", file, root); err != nil {
			return err
		}
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := arrange(root, unpacked); err != nil {
		return err
	}
	// The packages' scripts would do this on a machine that installs them.
	version := filepath.Base(glob1(filepath.Join(unpacked, "lib", "modules", "*")))
	if err := s.command(ctx, "", depmod(), "-b", unpacked, version); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(unpacked, "lib", "modules"), filepath.Join(unpacked, "modules")); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(unpacked, "lib")); err != nil {
		return err
	}
	return os.Rename(unpacked, dir)
}

// arrange moves the kernel, its config and its modules from an unpacked root
// file system to boot/ and lib/modules/VERSION of dir.
func arrange(root, dir string) error {
	modules := glob1(filepath.Join(root, "lib", "modules", "*"), filepath.Join(root, "usr", "lib", "modules", "*"))
	if modules == "" {
		return errors.New("unpacking: the packages hold no modules")
	}
	version := filepath.Base(modules)
	boot := filepath.Join(dir, "boot")
	for _, d := range []string{boot, filepath.Join(dir, "lib", "modules")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	image := glob1(filepath.Join(root, "boot", "vmlinuz-"+version), filepath.Join(modules, "vmlinuz"))
	if image == "" {
		return errors.New("unpacking: the packages hold no kernel image")
	}
	if err := os.Rename(image, filepath.Join(boot, "vmlinuz")); err != nil {
		return err
	}
	if config := glob1(filepath.Join(root, "boot", "config-"+version), filepath.Join(modules, "config")); config != "" {
		if err := os.Rename(config, filepath.Join(boot, "config-"+version)); err != nil {
			return err
		}
	}
	return os.Rename(modules, filepath.Join(dir, "lib", "modules", version))
}

// glob1 returns the first file that matches one of the patterns, or nothing.
func glob1(patterns ...string) string {
	for _, pattern := range patterns {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// depmod is in a folder that is not in every user's PATH.
func depmod() string {
	if path, err := exec.LookPath("depmod"); err == nil {
		return path
	}
	return "/sbin/depmod"
}

// apt is apt with folders and a source of its own.
type apt struct {
	store   *Store
	options []string
}

// newApt makes apt's folders under dir, for one suite of the machine's mirror,
// and loads the suite's lists. kind is deb or deb-src.
func (s *Store) newApt(ctx context.Context, dir, suite, kind string) (*apt, error) {
	base, err := mirror(ctx, suite)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	line := fmt.Sprintf("%s [signed-by=%s] %s %s main\n", kind, keyring, base, suite)
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return nil, err
	}
	a := &apt{store: s, options: []string{
		"-o", "Dir::Etc::sourcelist=" + sources,
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::Etc::preferencesparts=-",
		"-o", "Dir::State=" + filepath.Join(dir, "state"),
		"-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		// The user _apt may not write into a user's cache folder.
		"-o", "APT::Sandbox::User=",
		// The machine's own hooks are about its own lists and packages.
		"-o", "APT::Update::Post-Invoke::=true",
		"-o", "APT::Update::Post-Invoke-Success::=true",
		"-o", "Acquire::Retries=3",
	}}
	return a, a.run(ctx, "", "apt-get", "-qq", "update")
}

func (a *apt) run(ctx context.Context, dir, name string, args ...string) error {
	return a.store.command(ctx, dir, name, append(append([]string{}, a.options...), args...)...)
}

// closure returns the packages that one depends on, directly or not, whose names
// match. The first of alternatives counts.
func (a *apt) closure(ctx context.Context, name string, match *regexp.Regexp) ([]string, error) {
	var found []string
	seen := map[string]bool{name: true}
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		args := append(append([]string{}, a.options...), "show", "--no-all-versions", queue[0])
		out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
		if err != nil {
			return nil, fmt.Errorf("finding package %s: %w", queue[0], explain(err))
		}
		for _, dependency := range dependencies(string(out)) {
			if match.MatchString(dependency) && !seen[dependency] {
				seen[dependency] = true
				queue = append(queue, dependency)
				found = append(found, dependency)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("finding package %s: it depends on no kernel", name)
	}
	return found, nil
}

// dependencies returns the names in the Depends line of a package's record.
func dependencies(record string) []string {
	var names []string
	for line := range strings.Lines(record) {
		list, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for _, item := range strings.Split(list, ",") {
			if fields := strings.Fields(item); len(fields) > 0 {
				names = append(names, fields[0])
			}
		}
	}
	return names
}

// mirror returns the base address of the machine's mirror for a suite, as its
// apt sources have it.
func mirror(ctx context.Context, suite string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("reading the apt sources: %w", explain(err))
	}
	return pickMirror(string(out), suite)
}

// pickMirror picks from lines of "URI RELEASE". Security updates lie beside the
// main archive; a machine without a source for them gets the neighbour of its
// main one.
func pickMirror(targets, suite string) (string, error) {
	var archive, security string
	for line := range strings.Lines(targets) {
		uri, release, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		uri = strings.TrimSuffix(uri, "/")
		switch {
		case strings.HasSuffix(uri, "/debian-security") && security == "":
			security = uri
		case strings.HasSuffix(uri, "/debian") && archive == "" && !strings.HasSuffix(release, "-security"):
			archive = uri
		}
	}
	if strings.HasSuffix(suite, "-security") {
		if security == "" && archive != "" {
			security = archive + "-security"
		}
		archive = security
	}
	if archive == "" {
		return "", errors.New("reading the apt sources: no Debian mirror is configured")
	}
	return archive, nil
}

// command runs a program with its output on the store's Talk.
func (s *Store) command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var tail bytes.Buffer
	cmd.Stdout, cmd.Stderr = s.Talk, &tail
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w: %s", filepath.Base(name), err, strings.TrimSpace(tail.String()))
	}
	return nil
}

// explain adds what a program said on its standard error.
func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// The machine's files don't change for the guest, so the root and the modules may
// be cached without bounds. The working tree is shared in both directions: each
// read and write goes to the machine.
const (
	ninep       = "trans=virtio,version=9p2000.L,msize=512000"
	ninepCached = ninep + ",cache=loose"
)

func mount(source, target, fs string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fs, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fs, target, err)
	}
	return nil
}

// switchRoot makes the machine's root file system the guest's, read-only or, for
// systemd, under a writable overlay. proc, sys and dev move along.
func switchRoot(config wire.Config) error {
	const newRoot = "/newroot"
	if err := mountRoot(config, newRoot); err != nil {
		return err
	}
	for _, name := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(name, newRoot+name, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", name, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// The initramfs can't be unmounted; its files would hold memory.
	for _, name := range []string{wire.ModuleDir, "/init"} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return os.Chdir("/")
}

func mountRoot(config wire.Config, target string) error {
	if !config.Systemd {
		return mount(wire.TagRoot, target, "9p", unix.MS_RDONLY, ninepCached)
	}
	if err := mount(wire.TagRoot, "/lower", "9p", unix.MS_RDONLY, ninepCached); err != nil {
		return err
	}
	if err := mount("tmpfs", "/upper", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/upper/data", "/upper/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return mount("overlay", target, "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work")
}

// mountAll mounts what a host has mounted, and writable memory where programs
// expect to write. A file system that the kernel lacks is left out: the tests
// probe for what they need.
func mountAll(config wire.Config) error {
	const usual = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fs, at string
		flags  uintptr
		data   string
		must   bool
	}{
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666", true},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
		{"mqueue", "/dev/mqueue", usual, "", false},
		{"cgroup2", "/sys/fs/cgroup", usual, "", true},
		{"bpf", "/sys/fs/bpf", usual, "mode=700", false},
		{"tracefs", "/sys/kernel/tracing", usual, "", false},
		{"debugfs", "/sys/kernel/debug", usual, "", false},
		{"securityfs", "/sys/kernel/security", usual, "", false},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
		{"tmpfs", "/var/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755", true},
		{"tmpfs", "/root", 0, "mode=700", true},
		{"tmpfs", "/mnt", 0, "mode=755", true},
	} {
		err := mount(m.fs, m.at, m.fs, m.flags, m.data)
		if err != nil && (m.must || !absent(err)) {
			return err
		}
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/run/faultline-state"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := mountExports(config); err != nil {
		return err
	}
	if err := makeDevices("/lib/modules", "/dev"); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("faultline-test")); err != nil {
		return err
	}
	return loopbackUp()
}

// absent says whether a mount failed because the kernel lacks the file system or
// the place that it creates for it.
func absent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM)
}

// mountExports mounts the working tree at its own path, and the kernel's modules
// and config where programs look for them.
func mountExports(config wire.Config) error {
	if err := mount(wire.TagTree, config.Tree, "9p", 0, ninep); err != nil {
		return err
	}
	if !config.KernelDir {
		return nil
	}
	const at = "/run/faultline-kernel"
	if err := mount(wire.TagKernel, at, "9p", unix.MS_RDONLY, ninepCached); err != nil {
		return err
	}
	for source, target := range map[string]string{"modules": "/lib/modules", "boot": "/boot"} {
		err := unix.Mount(filepath.Join(at, source), target, "", unix.MS_BIND, "")
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("mounting the kernel's %s: the machine has no folder %s: run test/vm/install there", source, target)
		}
		if err != nil {
			return fmt.Errorf("mounting the kernel's %s on %s: %w", source, target, err)
		}
	}
	return nil
}

// loopbackUp brings up lo. There is no other network interface.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing up lo: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing up lo: %w", err)
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

// makeCgroups moves this process into a cgroup of its own and makes another for
// the command, so that neither is in the root cgroup: as on a host, where the
// root has kernel threads only. It returns the command's, opened.
func makeCgroups() (*os.File, error) {
	for _, name := range []string{"init", "runner"} {
		if err := os.Mkdir(filepath.Join(cgroupRoot, name), 0o755); err != nil {
			return nil, fmt.Errorf("making a cgroup: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(cgroupRoot, "init", "cgroup.procs"), []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("entering a cgroup: %w", err)
	}
	controllers, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return nil, fmt.Errorf("enabling controller %s: %w", name, err)
		}
	}
	return os.Open(filepath.Join(cgroupRoot, "runner"))
}

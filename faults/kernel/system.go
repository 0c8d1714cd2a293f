package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hierarchy returns the number of the v1 hierarchy that a controller is bound
// to in a listing in the format of /proc/cgroups (cgroups(7)): 0 for none or
// v2, -1 when the kernel lacks the controller or has it disabled.
func hierarchy(cgroups, controller string) int {
	for line := range strings.Lines(cgroups) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != controller {
			continue
		}
		id, err := strconv.Atoi(f[1])
		if err != nil || f[3] != "1" {
			return -1
		}
		return id
	}
	return -1
}

// v1Name is what /proc/cgroups calls a controller of v2.
func v1Name(controller string) string {
	if controller == "io" {
		return "blkio"
	}
	return controller
}

// controllerProbe looks for a controller of cgroup v2 and, where it is enabled
// for children, for its limit file in a child.
func controllerProbe(controller, limit string) func(*Prober) (string, error) {
	return func(p *Prober) (string, error) {
		if p.cgroupRoot == "" {
			return "", errNoCgroup2
		}
		list, err := os.ReadFile(filepath.Join(p.cgroupRoot, "cgroup.controllers"))
		if err != nil {
			return "", atStage(stageSetup, fmt.Errorf("reading the controllers: %w", err))
		}
		if !slices.Contains(strings.Fields(string(list)), controller) {
			return "", missingController(controller)
		}
		enabled, err := os.ReadFile(filepath.Join(p.cgroupRoot, "cgroup.subtree_control"))
		if err != nil {
			return "", atStage(stageSetup, fmt.Errorf("reading the enabled controllers: %w", err))
		}
		if !slices.Contains(strings.Fields(string(enabled)), controller) {
			return "present, but not enabled for the children of " + p.cgroupRoot, nil
		}
		return "", withCgroup(p.cgroupRoot, func(dir string) error {
			_, err := os.Stat(filepath.Join(dir, limit))
			if errors.Is(err, os.ErrNotExist) {
				return noBecause("the controller has no "+limit, "")
			}
			return atStage(stageSetup, err)
		})
	}
}

// missingController says why a controller is not on the v2 hierarchy.
func missingController(controller string) error {
	list, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return noBecause("the cgroup v2 hierarchy has no "+controller+" controller", "")
	}
	switch id := hierarchy(string(list), v1Name(controller)); {
	case id > 0:
		return noBecause(fmt.Sprintf("the %s controller is bound to cgroup v1 (hierarchy %d)", v1Name(controller), id),
			"boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all")
	case id < 0:
		return noBecause("the kernel has no "+controller+" controller, or has it disabled (cgroup_disable=)", "")
	}
	return noBecause("the cgroup v2 hierarchy has no "+controller+" controller", "")
}

// probeCgroupFreeze freezes a cgroup with nothing in it.
func probeCgroupFreeze(p *Prober) error {
	return withCgroup(p.cgroupRoot, func(dir string) error {
		file := filepath.Join(dir, "cgroup.freeze")
		if err := writeExisting(file, "1"); err != nil {
			return err
		}
		got, err := os.ReadFile(file)
		if err != nil {
			return atStage(stageSetup, fmt.Errorf("reading back: %w", err))
		}
		if strings.TrimSpace(string(got)) != "1" {
			return noBecause("cgroup.freeze does not keep what is written", "")
		}
		return writeExisting(file, "0")
	})
}

// probeCgroupKill kills a cgroup with nothing in it.
func probeCgroupKill(p *Prober) error {
	return withCgroup(p.cgroupRoot, func(dir string) error {
		return writeExisting(filepath.Join(dir, "cgroup.kill"), "1")
	})
}

// writeExisting writes a cgroup file; one that is not there is a conclusive no.
func writeExisting(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return noBecause("cgroups have no file "+filepath.Base(file), "")
	}
	if err != nil {
		return atStage(stageSetup, fmt.Errorf("opening: %w", err))
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return atStage(stageSetup, fmt.Errorf("writing %s: %w", filepath.Base(file), err))
	}
	return nil
}

// probeFUSE asks for the file system by name, which makes the kernel load the
// module, and opens the device.
func probeFUSE(*Prober) error {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		unix.Close(fs)
	case errors.Is(err, unix.ENODEV):
		return noBecause("the kernel does not know the fuse file system and loaded no module for it", "")
	case errors.Is(err, unix.ENOSYS):
		// Before 5.2 opening the device loads the module.
	default:
		return atStage(stageSetup, fmt.Errorf("asking for the fuse file system: %w", err))
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return unix.Close(dev)
	case errors.Is(err, unix.ENOENT):
		return noBecause("the device /dev/fuse does not exist", "kernel module fuse and: mknod /dev/fuse c 10 229 (in a container: pass the device in)")
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return noBecause("no driver answers to /dev/fuse", "")
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return unknownBecause("opening /dev/fuse: "+err.Error(), "run as root; in a container allow the device 10:229")
	}
	return atStage(stageSetup, fmt.Errorf("opening /dev/fuse: %w", err))
}

// fanotifyWait bounds the wait for an event that the kernel queues at once.
const fanotifyWait = 5 * time.Second

// probeFanotify marks a file in memory that only the probe has, opens it from
// another thread and answers the permission event.
func probeFanotify(*Prober) (err error) {
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	if err != nil {
		return atStage(stageLoad, fmt.Errorf("making a fanotify group: %w", err))
	}
	mem, err := unix.MemfdCreate("faultline-probe", unix.MFD_CLOEXEC)
	if err != nil {
		unix.Close(group)
		return atStage(stageSetup, fmt.Errorf("making a file: %w", err))
	}
	opened := make(chan error, 1)
	started := false
	defer func() {
		// Closing the group lets a waiting open through.
		unix.Close(group)
		if started {
			if oerr := <-opened; oerr != nil && err == nil {
				err = atStage(stageSetup, fmt.Errorf("opening the probe's file: %w", oerr))
			}
		}
		unix.Close(mem)
	}()
	name := fmt.Sprintf("/proc/self/fd/%d", mem)
	if err := unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, name); err != nil {
		return atStage(stageLoad, fmt.Errorf("asking for permission events: %w", err))
	}
	started = true
	go func() {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		opened <- err
	}()
	poll := []unix.PollFd{{Fd: int32(group), Events: unix.POLLIN}}
	for deadline := time.Now().Add(fanotifyWait); ; {
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds())+1)
		if errors.Is(err, unix.EINTR) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return atStage(stageSetup, fmt.Errorf("waiting for a permission event: %w", err))
		}
		if n == 0 {
			return noBecause("a permission event was asked for but none came", "")
		}
		break
	}
	var event unix.FanotifyEventMetadata
	buf := make([]byte, 4096)
	n, err := unix.Read(group, buf)
	if err != nil || n < int(unsafe.Sizeof(event)) {
		return atStage(stageSetup, fmt.Errorf("reading a permission event of %d bytes: %w", n, err))
	}
	event = *(*unix.FanotifyEventMetadata)(unsafe.Pointer(&buf[0]))
	defer unix.Close(int(event.Fd))
	answer := unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&answer)), unsafe.Sizeof(answer))
	if _, err := unix.Write(group, raw); err != nil {
		return atStage(stageSetup, fmt.Errorf("answering a permission event: %w", err))
	}
	return nil
}

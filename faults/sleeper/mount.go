package sleeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// fileName is the only file of the file system.
const fileName = "sleep"

// mount mounts a FUSE file system nowhere: nobody has a path to it, and it is gone with the
// last descriptor and mapping of it, so that there is nothing to be undone. It returns the
// device by which requests come, and its root.
func mount() (device, root *os.File, err error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening /dev/fuse: %w", err)
	}
	device = os.NewFile(uintptr(fd), "/dev/fuse")
	root, err = mountDevice(fd)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("mounting a FUSE file system: %w", err), device.Close())
	}
	return device, root, nil
}

func mountDevice(device int) (*os.File, error) {
	context, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(context) }()
	for _, option := range [][2]string{
		{"source", daemonName}, {"fd", strconv.Itoa(device)}, {"rootmode", "40000"},
		{"user_id", strconv.Itoa(os.Getuid())}, {"group_id", strconv.Itoa(os.Getgid())},
	} {
		if err := unix.FsconfigSetString(context, option[0], option[1]); err != nil {
			return nil, fmt.Errorf("setting %s: %w", option[0], err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mount"), nil
}

// openFile opens the file to be mapped. It waits for the daemon.
func openFile(root *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(root.Fd()), fileName, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the file of the sleepers: %w", err)
	}
	return os.NewFile(uintptr(fd), fileName), nil
}

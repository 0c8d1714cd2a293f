package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// where are the fields of a fault that say what I/O is meant.
type where interface {
	GetOperations() []v1.DiskError_Operation
	GetDevice() string
	GetMountPoint() string
	GetSectors() []*v1.SectorRange
}

// device is a block device.
type device struct {
	name  string
	major uint32
	minor uint32
}

// number is the kernel's dev_t.
func (d device) number() uint32 { return d.major<<20 | d.minor }

// String is "/dev/sdb (8:16)".
func (d device) String() string { return fmt.Sprintf("%s (%d:%d)", d.name, d.major, d.minor) }

// findDevice looks for the device that is given, or that a mounted file system is on.
func findDevice(at where) (device, error) {
	var stat unix.Stat_t
	if path := at.GetDevice(); path != "" {
		switch err := unix.Stat(path, &stat); {
		case errors.Is(err, os.ErrNotExist):
			return device{}, fmt.Errorf("there is no device %s", path)
		case err != nil:
			return device{}, fmt.Errorf("looking at device %s: %w", path, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFBLK:
			return device{}, fmt.Errorf("%s is no block device", path)
		}
		return device{path, unix.Major(stat.Rdev), unix.Minor(stat.Rdev)}, nil
	}
	path := at.GetMountPoint()
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_TYPE, &x); err != nil {
		return device{}, fmt.Errorf("looking at mount point %s: %w", path, err)
	}
	if x.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return device{}, fmt.Errorf("%s is no mount point; give where a file system is mounted (findmnt --target %s)", path, path)
	}
	if x.Dev_major == 0 {
		return device{}, fmt.Errorf("the file system at %s is on no block device of its own (tmpfs, overlay, network, btrfs); give a device", path)
	}
	return device{path, x.Dev_major, x.Dev_minor}, nil
}

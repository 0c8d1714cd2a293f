//go:build linux

package env

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/pin"
)

// MountBPF gives the test binary a BPF file system where the machine has none,
// in a mount namespace that ends with it. Call it before Main.
func MountBPF() {
	if pin.Available() == nil {
		return
	}
	// Each thread has a mount namespace; exec leaves one thread, this.
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return // no test can need it
	}
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err == nil {
		err = unix.Mount("bpf", pin.Mount, "bpf", 0, "mode=0700")
	}
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "mounting a BPF file system:", err)
	os.Exit(1)
}

//go:build linux && privileged

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/pin"
)

// isolated marks a test binary that has been through isolate.
const isolated = "FAULTLINE_TEST_ISOLATED"

// isolate gives the test binary a mount namespace of its own, with a BPF file
// system where the machine has none: what scripts mount is seen by them and by
// what they start, and goes with the last of these processes.
func isolate() {
	name := filepath.Base(os.Args[0])
	if _, program := programs[name]; program || os.Getenv(isolated) != "" {
		return
	}
	// Each thread has a mount namespace; exec leaves one thread, this.
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return // the tests say what they lack
	}
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil && pin.Available() != nil {
		err = unix.Mount("bpf", pin.Mount, "bpf", 0, "mode=0700")
	}
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), isolated+"=1"))
	}
	fmt.Fprintln(os.Stderr, "making a mount namespace:", err)
	os.Exit(1)
}

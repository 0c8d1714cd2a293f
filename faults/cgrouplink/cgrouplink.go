// Package cgrouplink attaches programs to the hooks of cgroups, by links that end with
// the process.
package cgrouplink

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// Attach attaches a program beside those of others. The error is fault.ErrGone when the
// cgroup is.
func Attach(cgroup fault.Cgroup, program *ebpf.Program, at ebpf.AttachType) (link.Link, error) {
	dir, err := cgroup.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: program, Attach: at})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("attaching to %s: a cgroup above it has a program that allows no others, as systemd's IPAddressAllow= attaches on old versions: %w", cgroup.Path, unix.EPERM)
	}
	if err != nil {
		return nil, fmt.Errorf("attaching to %s: %w", cgroup.Path, err)
	}
	return l, nil
}

//go:build linux && privileged

package netns_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) { env.Main(m, env.Traffic()) }

// A namespace is the target's alone until somebody else is in it, and again
// when he has gone.
func TestStranger(t *testing.T) {
	if _, err := os.Stat("/proc/1/ns/net"); err != nil {
		kernels.Missing(t, "all-processes", err)
	}
	network := env.NewNetwork(t)
	target, other := env.Cgroup(t), env.Cgroup(t)
	var ns *netns.Namespace
	network.B.Do(func() (err error) {
		ns, err = netns.Open("/proc/thread-self/ns/net")
		return err
	})
	defer func() { _ = ns.Close() }()
	only := func(cgroups ...fault.Cgroup) bool {
		t.Helper()
		stranger, err := ns.Stranger(cgroups)
		if err != nil {
			t.Fatal(err)
		}
		return stranger == ""
	}
	start := func(cgroup fault.Cgroup, address string) *env.Process {
		t.Helper()
		var ready string
		process := env.Start(t, cgroup, network.B, "stamp-receive", address)
		process.Read(&ready)
		return process
	}
	start(target, ":7000")
	start(env.Child(t, target, "below"), ":7001")
	if !only(target) {
		t.Error("the target is alone, and said not to be")
	}
	stranger := start(other, ":7002")
	if only(target) {
		t.Error("another cgroup's process is overlooked")
	}
	if !only(target, other) {
		t.Error("both are all there are")
	}
	stranger.Kill()
	if !only(target) {
		t.Error("the other process has ended")
	}
}

// Whether a process that may not be looked at shares the namespace is not known: it
// counts as if it did.
func TestStrangerThatMayNotBeLookedAt(t *testing.T) {
	network := env.NewNetwork(t)
	target := env.Cgroup(t)
	var ns *netns.Namespace
	network.B.Do(func() (err error) {
		ns, err = netns.Open("/proc/thread-self/ns/net")
		return err
	})
	defer func() { _ = ns.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked, the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := withoutPtrace(); err != nil {
			t.Error(err)
			return
		}
		stranger, err := ns.Stranger([]fault.Cgroup{target})
		if err != nil {
			t.Error(err)
		}
		// debian-5.10 lets it look all the same.
		if _, err := os.Stat("/proc/1/ns/net"); err == nil && stranger != "" {
			t.Errorf("all can be looked at, and the stranger is %q", stranger)
		} else if err != nil && !strings.Contains(stranger, "can't be seen") {
			t.Errorf("process 1: %v, and the stranger is %q", err, stranger)
		}
	}()
	<-done
}

// withoutPtrace takes from the thread the right to look at processes that have
// rights of which it has not all.
func withoutPtrace() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_PTRACE
	return unix.Capset(&header, &data[0])
}

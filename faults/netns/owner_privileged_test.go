//go:build linux && privileged

package netns_test

import (
	"testing"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) { env.Main(m, env.Traffic()) }

// A namespace is the target's alone until somebody else is in it, and again
// when he has gone.
func TestStranger(t *testing.T) {
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

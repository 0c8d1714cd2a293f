//go:build linux && privileged

package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

// place is where one variant is measured: a network of its own with a target
// and a bystander on one interface, so that all variants are in place at once
// and a round only has to let each send.
type place struct {
	b         testing.TB
	network   env.Network
	target    fault.Cgroup
	bystander fault.Cgroup
	// receiver is in B.
	receiver fault.Cgroup
	prober   *kernel.Prober
	// injection is nil in a variant without a fault.
	injection fault.Injection
}

func newPlace(b testing.TB, prober *kernel.Prober) *place {
	b.Helper()
	return &place{
		b:         b,
		network:   env.NewNetwork(b),
		target:    env.Cgroup(b),
		bystander: env.Cgroup(b),
		receiver:  env.Cgroup(b),
		prober:    prober,
	}
}

func newProber(b testing.TB) *kernel.Prober {
	b.Helper()
	return env.Prober(b)
}

// setting puts a variant in place. It returns why this kernel can't have it,
// or "".
type setting func(*place) (missing string)

func nothing(*place) string { return "" }

// faultOn injects a fault of the family into the cgroup that choose picks.
func faultOn(choose func(*place) fault.Cgroup, spec func() *v1.Fault) setting {
	return func(p *place) string {
		s := spec()
		kind, err := faults.KindOf(s)
		if err != nil {
			p.b.Fatal(err)
		}
		for _, m := range kind.Mechanisms {
			if m.Name != s.GetMechanism() {
				continue
			}
			for _, capability := range m.Needs {
				if answer := p.prober.Probe(p.b.Context(), capability); !answer.OK() {
					return answer.Reason
				}
			}
		}
		p.inject(kind, choose(p), s)
		return ""
	}
}

func target(p *place) fault.Cgroup { return p.target }

func receiver(p *place) fault.Cgroup { return p.receiver }

// inject starts a fault that lasts until the benchmark ends or revert is
// called.
func (p *place) inject(kind fault.Kind, cgroup fault.Cgroup, spec *v1.Fault) {
	p.b.Helper()
	plan, err := kind.Plan(p.b.Context(), fault.Request{
		Spec:       spec,
		Cgroups:    []fault.Cgroup{cgroup},
		Seed:       42,
		Observe:    spec.GetObserve(),
		Prober:     p.prober,
		Resolver:   net.DefaultResolver,
		CgroupRoot: env.CgroupRoot(p.b),
		Log:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		p.b.Fatal(err)
	}
	injection, err := plan.Inject(p.b.Context(), &env.Recorder{})
	if err != nil {
		p.b.Fatal(err)
	}
	p.injection = injection
	p.b.Cleanup(p.revert)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		p.b.Fatal(err)
	}
	if err := injection.Start(fault.Lease{Deadline: uint64(now.Nano() + int64(2*time.Hour))}); err != nil {
		p.b.Fatal(err)
	}
}

func (p *place) revert() {
	p.b.Helper()
	if p.injection == nil {
		return
	}
	if err := p.injection.Revert(context.Background()); err != nil {
		p.b.Errorf(env.LeftBehind+"%v", err)
	}
	p.injection = nil
}

// counters are zero without a fault.
func (p *place) counters() fault.Counters {
	p.b.Helper()
	if p.injection == nil {
		return fault.Counters{}
	}
	counters, err := p.injection.Counters()
	if err != nil {
		p.b.Fatal(err)
	}
	return counters
}

// netem loses that many percent of everything that leaves by the interface.
func netem(percent string) setting {
	return func(p *place) string {
		return tries(p.network.A, "tc", "qdisc", "add", "dev", env.Veth, "root", "netem", "loss", percent+"%")
	}
}

// iptables drops one of 100,000 packets of the target.
func iptables(p *place) string {
	return tries(p.network.A, "iptables", "-w", "-A", "OUTPUT",
		"-m", "cgroup", "--path", p.below(p.target), "-p", "udp", "--dport", portText,
		"-m", "statistic", "--mode", "random", "--probability", "0.00001", "-j", "DROP")
}

// nftables does the same.
func nftables(p *place) string {
	rules := fmt.Sprintf(`table inet bench {
			chain out {
				type filter hook output priority 0
				socket cgroupv2 level %d "%s" udp dport %s numgen random mod 100000 < 1 drop
			}
		}`,
		p.target.Level, p.below(p.target), portText)
	// nft looks for the path below /sys/fs/cgroup, wherever cgroup v2 is.
	script := `if [ "$1" != /sys/fs/cgroup ]; then mount --bind "$1" /sys/fs/cgroup; fi; exec nft "$2"`
	return tries(p.network.A, "unshare", "--mount", "sh", "-ec", script, "sh", env.CgroupRoot(p.b), rules)
}

// tries runs a program in a namespace, and returns the last line of what it complains
// about when it fails.
func tries(ns *env.Namespace, name string, args ...string) (complaint string) {
	ns.Do(func() error {
		output, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			lines := strings.Split(strings.TrimSpace(string(output)), "\n")
			complaint = strings.TrimSpace(lines[0])
			if complaint == "" {
				complaint = err.Error()
			}
		}
		return nil
	})
	return complaint
}

// below is a cgroup's path without that of the hierarchy.
func (p *place) below(cgroup fault.Cgroup) string {
	p.b.Helper()
	path, err := filepath.Rel(env.CgroupRoot(p.b), cgroup.Path)
	if err != nil {
		p.b.Fatal(err)
	}
	return path
}

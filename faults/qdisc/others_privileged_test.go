//go:build linux && privileged

package qdisc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// Somebody else's root stands in the place of ours.
func TestRootOfSomebodyElseIsLeftAlone(t *testing.T) {
	needs(t, kernel.FQ)
	for _, tr := range []tree{trees[0], {name: "explicit", device: "eth0", commands: []string{"tc qdisc add dev DEV root handle 5: fq_codel"}},
		{name: "explicit mq", device: "quad0", commands: []string{"tc qdisc add dev DEV root handle 5: mq", "tc qdisc replace dev DEV parent 5:1 fq_codel"}}} {
		for _, theirs := range []string{"handle 7: pfifo_fast", "handle 7: fq", "handle 7: mq", "handle 7: prio"} {
			if strings.HasSuffix(theirs, "mq") && tr.device != "quad0" {
				continue
			}
			t.Run(tr.name+" "+theirs, func(t *testing.T) {
				d := tr.make(t, hooks(t)[0])
				record := d.record()
				a := d.actor(record)
				a.steps(t, begun...)
				d.run("tc qdisc del dev DEV clsact")
				if out, err := d.try("tc qdisc replace dev DEV root " + theirs); err != nil {
					kernels.Missing(t, theirs, fmt.Errorf("%s", out))
				}
				before := d.show()
				d.revert(record)
				env.Unchanged(t, before, d.show())
			})
		}
	}
}

// Somebody has removed our root: the kernel's default is there.
func TestRemovedFQIsMadeAgain(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		d := trees[0].make(t, hook)
		before := d.dump()
		a := d.actor(&env.Recorder{})
		a.steps(t, begun...)
		d.run("tc qdisc del dev DEV root")
		d.has("noqueue 0:")
		a.steps(t, "make")
		d.has(fqDefault)
		d.run("tc qdisc replace dev DEV root handle 7: fq_codel")
		if err := a.make(); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "replaced meanwhile") {
			t.Error(err)
		}
		d.has("fq_codel 7:")
		d.run("tc qdisc del dev DEV root")
		a.steps(t, "undo")
		d.clean(before)
	})
}

func TestInterfaceOrNamespaceThatIsGone(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		for _, tr := range []tree{trees[0], {name: "explicit", device: "eth0", commands: []string{"tc qdisc add dev DEV root handle 5: fq_codel"}}} {
			t.Run("renamed "+tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				record := d.record()
				before := d.dump()
				d.actor(record).steps(t, begun...)
				d.run("ip link set DEV down")
				d.run("ip link set DEV name other0")
				d.run("ip link set other0 up")
				d.name = "other0"
				d.revert(record)
				d.clean(before)
			})
			t.Run("interface gone "+tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				record := d.record()
				a := d.actor(record)
				a.steps(t, begun...)
				d.run("ip link del DEV")
				d.revert(record)
				if err := a.make(); !errors.Is(err, fault.ErrGone) {
					t.Error(err)
				}
				if _, err := qdisc.Look(d.ns, d.index, qdisc.Params{}); !errors.Is(err, fault.ErrGone) {
					t.Error(err)
				}
			})
			t.Run("namespace gone "+tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				record := d.record()
				d.actor(record).steps(t, begun...)
				// Its inode can't be found without a process in it.
				d.keeper.Kill()
				if ns, err := netns.Find(d.ns.Inode); ns != nil || err != nil {
					t.Fatalf("found %v, %v", ns, err)
				}
				d.revert(record)
			})
		}
	})
}

// While it is down a device has no default; it comes with its being up.
func TestInterfaceThatWentDown(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		d := trees[0].make(t, hook)
		before, lines := d.dump(), d.lines()
		a := d.actor(&env.Recorder{})
		a.steps(t, begun...)
		d.run("ip link set DEV down")
		a.steps(t, "undo")
		if lasting := qdisc.Lasting(lines, d.lines()); len(lasting) > 0 {
			t.Errorf("%q are to be in %q", lasting, d.lines())
		}
		d.run("ip link set DEV up")
		d.clean(before)
	})
}

func TestFiltersOfOthersAreUntouched(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		d := newDevice(t, hook, "eth0", "tc qdisc add dev DEV clsact",
			"tc filter add dev DEV egress protocol ip prio 70 handle 3 matchall classid 1:3",
			"tc filter add dev DEV ingress protocol all prio 71 matchall classid 1:4")
		state := func() string {
			return d.dump() + d.run("tc filter show dev DEV egress") + d.run("tc filter show dev DEV ingress")
		}
		before := state()
		a := d.actor(&env.Recorder{})
		a.steps(t, begun...)
		a.steps(t, "undo")
		env.Unchanged(t, before, state())
	})
}

// pair is two faults at one interface.
type pair struct {
	*device
	tree tree
	a, b *other
}

func eachPair(t *testing.T, fn func(t *testing.T, p pair, before string)) {
	eachHook(t, func(t *testing.T, hook string) {
		for _, tr := range []tree{trees[0],
			{name: "explicit", device: "eth0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: fq_codel limit 99"}},
			{name: "explicit mq", device: "quad0", root: mqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: mq",
				"tc qdisc replace dev DEV parent 5:2 fq_codel"}},
		} {
			t.Run(tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				before := d.dump()
				fn(t, pair{d, tr, d.other(), d.other()}, before)
			})
		}
	})
}

func TestTwoFaultsShareAndTheLastPutsBack(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair, before string) {
		p.a.steps(begun...)
		p.b.steps(begun...)
		p.a.steps("undo")
		p.has(p.tree.root)
		p.a.steps("undo")
		p.has(p.tree.root)
		p.b.steps("undo")
		p.clean(before)

		// In the other order, and a third that comes when the first is gone.
		p.a.steps(begun...)
		p.b.steps(begun...)
		p.b.steps("undo")
		p.b.steps(begun...)
		p.a.steps("undo")
		p.has(p.tree.root)
		p.b.steps("undo")
		p.clean(before)
	})
}

// One that has not started yet keeps its fq.
func TestFaultThatBeginsKeepsItsFQ(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair, before string) {
		p.a.steps(begun...)
		p.b.steps("reserve", "attach")
		p.a.steps("undo")
		p.has(p.tree.root)
		p.b.steps("make")
		p.b.steps("undo")
		p.clean(before)

		// Its program is not there yet: what is removed is made again.
		p.a.steps(begun...)
		p.b.steps("reserve")
		p.a.steps("undo")
		p.clean(before)
		p.b.steps("attach", "make")
		p.has(p.tree.root)
		p.b.steps("undo")
		p.clean(before)
	})
}

// What a dead or frozen process has left uses nothing.
func TestLeaseThatIsOverUsesNothing(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair, before string) {
		p.a.steps(begun...)
		p.b.steps(begun...)
		p.a.steps("lease 0s")
		p.b.steps("undo")
		p.has(before2root(before))
		p.a.steps("undo")
		p.clean(before)

		// It died before it began. Only a filter outlives it.
		p.a.steps("reserve", "attach")
		p.b.steps(begun...)
		p.a.Kill()
		if err := env.Within(10*time.Second, func() error {
			if strings.Contains(p.run("tc filter show dev DEV egress"), "not_in_hw id 0") {
				return errors.New("still there")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		p.b.steps("undo")
		p.has(before2root(before))
		p.revert(p.a.record)
		p.clean(before)
	})
}

// before2root is the kind and handle in tc's words.
func before2root(dump string) string {
	for kind, root := range map[string]string{"noqueue": "noqueue 0:", "mq": "mq 5:"} {
		if strings.Contains(dump, " "+kind) {
			return root
		}
	}
	return "fq_codel 5:"
}

// Two that died together leave a filter each, whose lease still runs.
func TestTwoDeadFaultsAreTakenBackInAnyOrder(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair, before string) {
		p.a.steps(begun...)
		p.b.steps(begun...)
		p.a.Kill()
		p.b.Kill()
		p.revert(p.b.record)
		p.revert(p.a.record)
		p.clean(before)
	})
}

// What was there before is told by the programs alone; nobody tells is refused.
func TestExplicitRootOfADeadFaultIsRefused(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		d := newDevice(t, hook, "eth0", "tc qdisc add dev DEV root handle 5: fq_codel")
		before := d.dump()
		a, b := d.other(), d.other()
		a.steps(begun...)
		a.Kill()
		if hook == "cls_bpf" {
			d.run("tc qdisc del dev DEV clsact")
		}
		err := env.Within(10*time.Second, func() error {
			if answer := b.ask("reserve"); !strings.Contains(answer, "only its undo knows") {
				return errors.New(answer)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		d.has(fqExplicit)
		d.revert(a.record)
		d.unchanged(before)
	})
}

func TestProgramThatIsNotAttachedGetsNoFQ(t *testing.T) {
	needs(t, kernel.FQ)
	d := trees[0].make(t, hooks(t)[0])
	before := d.dump()
	a := d.actor(&env.Recorder{})
	a.steps(t, "reserve")
	if err := a.make(); err == nil || !strings.Contains(err.Error(), "not attached") {
		t.Error(err)
	}
	d.unchanged(before)
}

// A second fault with a longer delay raises what the first has made.
func TestLimitsGrowInPlace(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		for _, tr := range []tree{trees[0], {name: "explicit mq", device: "quad0", commands: []string{"tc qdisc add dev DEV root handle 5: mq"}}} {
			t.Run(tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				before := d.dump()
				a, b := d.actor(&env.Recorder{}), d.actor(&env.Recorder{})
				b.hook = "cls_bpf"
				a.steps(t, begun...)
				made := d.show()
				b.params = qdisc.Params{Delay: 30 * time.Second, Rate: 2000}
				b.lease, b.program = a.lease, a.program
				b.steps(t, "reserve", "make")
				want := qdisc.Limits{Packets: 480_000, FlowPackets: 120_000, Horizon: 61 * time.Second}
				if b.limits != want {
					t.Errorf("limits %+v, want %+v", b.limits, want)
				}
				a.steps(t, "make")
				if a.limits != want {
					t.Errorf("shrunk to %+v", a.limits)
				}
				if now := d.show(); strings.Contains(now, "horizon 10s") || strings.Count(now, "fq") != strings.Count(made, "fq") {
					t.Errorf("was\n%s\nis\n%s", made, now)
				}
				a.steps(t, "undo")
				d.clean(before)
			})
		}
	})
}

// One that uses somebody else's fq may come to be the last that uses ours.
func TestForeignFQThatIsReplacedMeanwhile(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		d := newDevice(t, hook, "eth0")
		before := d.dump()
		d.run("tc qdisc add dev DEV root handle 5: fq")
		a, b := d.other(), d.other()
		a.steps(begun...)
		d.has("fq 5:")
		d.run("tc qdisc del dev DEV root")
		b.steps(begun...)
		d.has(fqDefault)
		b.steps("undo")
		d.has(fqDefault)
		a.steps("make")
		a.steps("undo")
		d.clean(before)
	})
}

// A leaf that somebody has made since is left as it is by an undo that comes
// again.
func TestLeafOfSomebodyElseIsLeftAlone(t *testing.T) {
	needs(t, kernel.FQ)
	d := newDevice(t, hooks(t)[0], "quad0", "tc qdisc add dev DEV root handle 5: mq", "tc qdisc replace dev DEV parent 5:2 handle 12: fq_codel")
	record := d.record()
	a := d.actor(record)
	a.steps(t, begun...)
	a.steps(t, "undo")
	d.run("tc qdisc replace dev DEV parent 5:2 handle 22: pfifo_fast")
	before := d.dump()
	d.revert(record)
	d.unchanged(before)
}

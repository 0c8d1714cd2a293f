//go:build linux && privileged

package network_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// eachPinned runs a test for every way to pin a fault of the family.
func eachPinned(t *testing.T, test func(t *testing.T, p *pinned)) {
	for _, mechanism := range []string{"tcx", "cls_bpf"} {
		t.Run("loss/"+mechanism, func(t *testing.T) {
			spec := lossOfUDP()
			spec.Filter.Direction = v1.Filter_BOTH
			test(t, newPinned(t, network.Loss(), spec, mechanism))
		})
	}
	t.Run("partition", func(t *testing.T) {
		test(t, newPinned(t, network.Partition(), partition(&v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP}), "cgroup_skb"))
	})
}

// chosen are the ordinals of datagrams that the fault takes.
func (p *pinned) chosen(count int) []int {
	if p.spec.GetNetworkLoss() != nil {
		return predicted(p.spec, count)
	}
	all := make([]int, count)
	for i := range all {
		all[i] = i
	}
	return all
}

func (p *pinned) pair(count int) env.UDPPair {
	p.t.Helper()
	return env.NewUDPPair(p.t, p.network, p.target, p.neighbour, env.AddressB+":7000", count)
}

// The fault goes on without the process, and with the next one, as if nothing
// had happened: the n-th packet gets the choice that it would have got.
func TestPinnedFaultIsAdopted(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		// A guest under load drops what is more than net.core.netdev_max_backlog (1000)
		// at a time.
		const count = 500
		pair := p.pair(count)
		p.begin(10 * time.Minute)
		if names := p.pins(p.records.pinDir); len(names) == 0 {
			t.Fatal("nothing is pinned")
		}
		_, lost := pair.Exchange()
		p.process.Kill()
		result, more := pair.Exchange()
		lost = append(lost, exchanged(1, count, more)...)
		if want := p.chosen(2 * count); result.Errors != 0 || !slices.Equal(lost, want) {
			t.Errorf("%d errors; lost %d packets, the seed says %d others", result.Errors, len(lost), len(want))
		}

		injection := p.mustAdopt()
		p.counted(injection, fault.Counters{Matched: 2 * count, Injected: uint64(len(lost))})
		if err := errors.Join(injection.Renew(env.Lease(10*time.Minute)), injection.Refresh(t.Context())); err != nil {
			t.Error(err)
		}
		_, more = pair.Exchange()
		lost = append(lost, exchanged(2, count, more)...)
		if want := p.chosen(3 * count); !slices.Equal(lost, want) {
			t.Errorf("lost %d packets, the seed says %d others", len(lost), len(want))
		}
		env.FirstEvent(t, injection)
		for range 2 {
			if err := injection.Revert(t.Context()); err != nil {
				t.Error(err)
			}
		}
		p.counted(injection, fault.Counters{Matched: 3 * count, Injected: uint64(len(lost))})
		p.nothingLeft()
		if _, lost := pair.Exchange(); len(lost) != 0 {
			t.Errorf("after the revert: lost %d", len(lost))
		}
	})
}

// An adopted fault is renewed or ends by its lease like any other.
func TestAdoptedFaultIsRenewed(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		pair := p.pair(100)
		p.begin(10 * time.Minute)
		p.process.Kill()
		injection := p.mustAdopt()
		if err := injection.Renew(env.Lease(0)); err != nil {
			t.Fatal(err)
		}
		if _, lost := pair.Exchange(); len(lost) != 0 {
			t.Errorf("after the lease: lost %d", len(lost))
		}
		if err := injection.Renew(env.Lease(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, lost := pair.Exchange(); !slices.Equal(lost, p.chosen(100)) {
			t.Errorf("lost %d, the seed says %d others", len(lost), len(p.chosen(100)))
		}
	})
}

// Without any process the kernel ends it, and nobody can begin it again.
func TestPinnedFaultEndsByItsLease(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		const count = 200
		pair := p.pair(count)
		p.begin(4 * time.Second)
		p.tell("renew")
		p.process.Kill()
		var all []int
		rounds := 0
		err := env.Within(30*time.Second, func() error {
			_, lost := pair.Exchange()
			all = append(all, exchanged(rounds, count, lost)...)
			rounds++
			if len(lost) > 0 {
				return errNotYet
			}
			return nil
		})
		if err != nil {
			t.Error("the lease has not ended the fault")
		}
		want := p.chosen(rounds * count)
		if len(all) == 0 || len(all) >= len(want) || !slices.Equal(all, want[:len(all)]) {
			t.Errorf("lost %d packets: not the first of those that the seed chooses", len(all))
		}
		if _, err := p.adopt(p.spec); err == nil || !strings.Contains(err.Error(), "lease ended") {
			t.Errorf("adopting after the lease: %v", err)
		}
		p.undoAllTwice()
		p.nothingLeft()
	})
}

// undoAllTwice runs every undo, and again although it is done.
func (p *pinned) undoAllTwice() {
	p.t.Helper()
	open := p.records.open(p.t)
	p.records.undoAll(p.t)
	for _, o := range slices.Backward(open) {
		if err := o.Undo.Undo(p.t.Context()); err != nil {
			p.t.Errorf("undoing again: %v", err)
		}
	}
}

// Whatever does not fit is refused, and goes on as it was.
func TestAdoptionIsRefused(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		const count = 200
		pair := p.pair(count)
		p.begin(10 * time.Minute)
		if _, err := p.adopt(p.spec); err == nil || !strings.Contains(err.Error(), "alive") {
			t.Errorf("adopting from a process that is alive: %v", err)
		}
		p.process.Kill()
		dir := p.records.pinDir
		program, stats, link := filepath.Join(dir, "prog_fl_drop_ingress"), filepath.Join(dir, "map_fl_stats"), ""
		for _, name := range p.pins(dir) {
			if strings.HasPrefix(name, "link_cgroup_") {
				link = filepath.Join(dir, name)
			}
		}
		aside := filepath.Join(filepath.Dir(dir), "aside")
		for _, test := range []struct {
			name, move, want string
			instead          func() error
		}{
			{"another program", program, "tag", func() error { return pinAnother(program) }},
			{"the program is missing", program, "prog_fl_drop_ingress", nil},
			{"a map is missing", stats, "map_fl_stats", nil},
			{"a link is missing", link, filepath.Base(link), nil},
			{"a pin too many", "", "fl_strange", func() error { return pinAnother(filepath.Join(dir, "fl_strange")) }},
		} {
			if test.move != "" {
				if err := os.Rename(test.move, aside); err != nil {
					t.Fatal(err)
				}
			}
			if test.instead != nil {
				if err := test.instead(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := p.adopt(p.spec); err == nil || !strings.Contains(err.Error(), test.want) || test.move != "" && test.instead == nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", test.name, err)
			}
			if test.move == "" {
				if err := os.Remove(filepath.Join(dir, "fl_strange")); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Rename(aside, test.move); err != nil {
				t.Fatal(err)
			}
		}
		for name, change := range map[string]func(*v1.Fault){
			"port":      func(s *v1.Fault) { s.Filter.Ports = []string{"7001"} },
			"direction": func(s *v1.Fault) { s.Filter.Direction = v1.Filter_INGRESS; s.Mechanism = "auto" },
			"observe":   func(s *v1.Fault) { s.Observe = true },
			"peers":     func(s *v1.Fault) { s.Filter.Peers = []string{env.AddressB} },
		} {
			other := proto.Clone(p.spec).(*v1.Fault)
			change(other)
			if _, err := p.adopt(other); err == nil {
				t.Errorf("adopted by a plan with another %s", name)
			}
		}
		if _, lost := pair.Exchange(); !slices.Equal(lost, p.chosen(count)) {
			t.Errorf("the fault has changed: lost %d, the seed says %d others", len(lost), len(p.chosen(count)))
		}
		injection := p.mustAdopt()
		if err := injection.Revert(t.Context()); err != nil {
			t.Error(err)
		}
		p.nothingLeft()
	})
}

// pinAnother pins a program that does nothing.
func pinAnother(path string) error {
	// rename(2) would replace it.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_drop_ingress", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return err
	}
	return errors.Join(program.Pin(path), program.Close())
}

// The process is killed somewhere while it pins; faults/pin has every step.
func TestKilledWhilePinning(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		p.pair(1) // the target needs a process to have an interface
		whole := 0
		for at := 0; ; at += 3 {
			p.launch(10 * time.Minute)
			err := env.Within(20*time.Second, func() error {
				done := p.pins(p.records.pinDir)
				if len(p.pins(p.records.pinDir+"-new"))+len(done) < at && len(done) == 0 {
					return errNotYet
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			p.process.Kill()
			if left := len(p.pins(p.records.pinDir)); left > 0 {
				if whole = left; whole < at {
					t.Logf("%d pins, killed %d times", whole, at/3+1)
				}
			}
			p.records.watches = nil
			p.undoAllTwice()
			p.nothingLeft()
			if whole > 0 && at > whole {
				break
			}
		}
	})
}

// Interfaces that join later are pinned too.
func TestPinnedFaultFollowsInterfaces(t *testing.T) {
	for _, mechanism := range []string{"tcx", "cls_bpf"} {
		t.Run(mechanism, func(t *testing.T) {
			p := newPinned(t, network.Loss(), lossOfUDP(), mechanism)
			spec := p.spec
			spec.GetNetworkLoss().Percent = 100
			p.pair(1)
			p.begin(10 * time.Minute)
			p.join("joined.1", "10.98.1.0/24")
			p.tell("refresh")
			p.process.Kill()
			p.send("10.98.1.9")
			p.join("joined.2", "10.98.2.0/24")
			// One that is gone leaves its pin or its record behind.
			p.network.A.Run("ip", "link", "del", "joined.1")
			injection := p.mustAdopt()
			p.join("joined.3", "10.98.3.0/24")
			if err := injection.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			for _, address := range []string{env.AddressB, "10.98.2.9", "10.98.3.9"} {
				p.send(address)
			}
			p.counted(injection, fault.Counters{Matched: 40, Injected: 40})
			if err := injection.Revert(t.Context()); err != nil {
				t.Error(err)
			}
			p.nothingLeft()
		})
	}
}

// send lets the target send ten datagrams.
func (p *pinned) send(address string) {
	p.t.Helper()
	var ready string
	sender := env.Start(p.t, p.target, p.network.A, "udp-send", address+":7000", "10")
	sender.Read(&ready)
	sender.Tell("go")
	var sent env.Sent
	sender.Read(&sent)
	if sent.Errors > 0 {
		p.t.Errorf("%d sends failed: %s", sent.Errors, sent.First)
	}
}

// join adds an interface by which a network can be reached.
func (p *pinned) join(name, destination string) {
	p.t.Helper()
	p.network.A.Run("ip", "link", "add", name, "type", "veth", "peer", "name", "peer-"+name)
	p.network.A.Run("ip", "link", "set", "peer-"+name, "up")
	// Nobody would answer for the addresses.
	p.network.A.Run("ip", "link", "set", name, "up", "arp", "off")
	p.network.A.Run("ip", "route", "add", destination, "dev", name)
}

// The undo needs neither the cgroup nor the network namespace.
func TestUndoAfterTheTargetIsGone(t *testing.T) {
	type left struct {
		p    *pinned
		open []fault.Open
	}
	var all []left
	eachPinned(t, func(t *testing.T, p *pinned) {
		p.pair(1)
		p.begin(10 * time.Minute)
		p.process.Kill()
		all = append(all, left{p, p.records.open(t)})
	})
	// The cgroups, processes and namespaces have ended with their tests.
	for _, l := range all {
		dir := l.p.records.pinDir
		if _, err := os.Stat(l.p.target.Path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", l.p.target.Path)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
			t.Errorf("no pins are left in %s: the test shows nothing (%v)", dir, err)
		}
		for range 2 {
			for _, o := range slices.Backward(l.open) {
				if err := o.Undo.Undo(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", filepath.Dir(dir))
		}
	}
}

// The plan says of each change who takes it back.
func TestPinnedPlanSaysWhoUndoes(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		p.pair(1)
		plan, err := p.plan(p.kind, p.spec)
		if err != nil {
			t.Fatal(err)
		}
		pins := 0
		for _, change := range plan.Changes {
			if want := "journal; without an agent the lease in the kernel ends it"; change.GetUndo() != want {
				t.Errorf("%s: %s is undone by %q, want %q", change.GetObject(), change.GetAction(), change.GetUndo(), want)
			}
			if strings.HasPrefix(change.GetAction(), "pin ") {
				pins++
			}
		}
		if pins != 1 || len(plan.Changes) < 2 {
			t.Errorf("changes %v", plan.Changes)
		}
	})
}

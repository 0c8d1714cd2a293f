//go:build linux && privileged

package network_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/test/env"
)

// remnants are those that this test has left, and none that runs beside it.
func (p *pinned) remnants(sender *env.Process) (list []fault.Undo) {
	p.t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", sender.PID()), &stat); err != nil {
		p.t.Fatal(err)
	}
	all, err := faults.Remnants(p.t.Context(), "")
	if err != nil {
		p.t.Error(err)
	}
	for _, undo := range all {
		switch u := undo.(type) {
		case pin.Directory:
			if u.Dir == p.records.pinDir {
				list = append(list, u)
			}
		case network.TCFilter:
			if u.NetNS == stat.Ino {
				list = append(list, u)
			}
		}
	}
	return list
}

// runAll undoes in the order in which they were given.
func (p *pinned) runAll(list []fault.Undo) {
	p.t.Helper()
	for _, undo := range list {
		if err := undo.Undo(p.t.Context()); err != nil {
			p.t.Error(err)
		}
	}
}

// forget takes the journal away.
func (p *pinned) forget() {
	p.t.Helper()
	if err := os.Remove(p.records.path); err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
}

func TestRemnantsAreFoundWithoutAJournal(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		pair := p.pair(200)
		p.begin(10 * time.Minute)
		if list := p.remnants(pair.Sender); len(list) > 0 {
			t.Errorf("what belongs to a live process is taken for a remnant: %v", list)
		}
		p.process.Kill()
		injection := p.mustAdopt()
		if list := p.remnants(pair.Sender); len(list) > 0 {
			t.Errorf("what was adopted is taken for a remnant: %v", list)
		}
		if err := injection.Revert(t.Context()); err != nil {
			t.Error(err)
		}
		if list := p.remnants(pair.Sender); len(list) > 0 {
			t.Errorf("found after the revert: %v", list)
		}

		p.begin(10 * time.Minute)
		p.process.Kill()
		p.forget()
		if _, lost := pair.Exchange(); len(lost) == 0 {
			t.Error("nothing is lost: the test shows nothing")
		}
		list := p.remnants(pair.Sender)
		want := []string{pin.Kind}
		if p.spec.GetMechanism() == "cls_bpf" {
			want = append(want, network.TCFilterKind)
		}
		var kinds []string
		for _, undo := range list {
			kinds = append(kinds, undo.Kind())
		}
		// One filter for each interface, loopback too.
		if kinds = slices.Compact(kinds); !slices.Equal(kinds, want) {
			t.Errorf("found %q, want %q", kinds, want)
		}
		p.runAll(list)
		p.runAll(list)
		p.nothingLeft()
		if _, lost := pair.Exchange(); len(lost) != 0 {
			t.Errorf("lost %d", len(lost))
		}
	})
}

// A fault that is not pinned leaves filters too.
func TestFilterOfADeadProcessIsARemnant(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreign clsact %v", foreign), func(t *testing.T) {
			p := newPinned(t, network.Loss(), lossOfUDP(), "cls_bpf")
			p.spec.Persistence = v1.Fault_PROCESS
			p.records.pinDir = ""
			pair := p.pair(10)
			if foreign {
				p.network.A.Run("tc", "qdisc", "add", "dev", env.Veth, "clsact")
			}
			p.begin(10 * time.Minute)
			if list := p.remnants(pair.Sender); len(list) > 0 {
				t.Errorf("what belongs to a live process is taken for a remnant: %v", list)
			}
			p.process.Kill()
			p.forget()
			list := p.remnants(pair.Sender)
			if len(list) == 0 {
				t.Error("found nothing")
			}
			p.runAll(list)
			if qdiscs := p.qdiscs(); strings.Contains(qdiscs, "clsact") != foreign {
				t.Errorf("left:\n%s", qdiscs)
			}
			if list := p.remnants(pair.Sender); len(list) > 0 {
				t.Errorf("found after the undo: %v", list)
			}
		})
	}
}

// A process that died between a clsact and its filter has left the clsact.
func TestClsactWithoutAFilterIsARemnant(t *testing.T) {
	p := newPinned(t, network.Loss(), lossOfUDP(), "cls_bpf")
	pair := p.pair(10)
	p.begin(10 * time.Minute)
	p.network.A.Run("tc", "filter", "del", "dev", env.Veth, "egress")
	p.process.Kill()
	list := p.remnants(pair.Sender)
	if !slices.ContainsFunc(list, func(undo fault.Undo) bool {
		filter, ok := undo.(network.TCFilter)
		return ok && filter.Interface == env.Veth && filter.Name == ""
	}) {
		t.Errorf("found %v", list)
	}
	p.runAll(list)
	p.records.undoAll(t)
	p.nothingLeft()
}

// Somebody who looks at a link must not keep it attached.
func TestUndoDetachesWhoeverHoldsALink(t *testing.T) {
	eachPinned(t, func(t *testing.T, p *pinned) {
		pair := p.pair(200)
		p.begin(10 * time.Minute)
		p.process.Kill()
		held := 0
		for _, name := range p.pins(p.records.pinDir) {
			if !strings.HasPrefix(name, "link_") {
				continue
			}
			l, err := link.LoadPinnedLink(p.records.pinDir+"/"+name, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			held++
		}
		if held == 0 {
			t.Error("no link is pinned: the test shows nothing")
		}
		p.undoAllTwice()
		p.nothingLeft()
		if _, lost := pair.Exchange(); len(lost) != 0 {
			t.Errorf("lost %d", len(lost))
		}
	})
}

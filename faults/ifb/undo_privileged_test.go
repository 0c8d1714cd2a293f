//go:build linux && privileged

package ifb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/test/env"
)

// dump is all that tc and ip know of a namespace.
func dump(ns *env.Namespace) string {
	text := ns.Run("ip", "-o", "-d", "link") + ns.Run("tc", "qdisc")
	for _, name := range []string{"lo", env.Veth} {
		for _, side := range []string{"ingress", "egress"} {
			text += ns.Run("tc", "filter", "show", "dev", name, side)
		}
	}
	return text
}

// withoutDevice leaves out the lines about one interface.
func withoutDevice(text, name string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(line string) bool { return strings.Contains(line, name) })
	return strings.Join(lines, "")
}

func TestNothingIsLeft(t *testing.T) {
	f := newFixture(t)
	before := dump(f.network.A)
	d := f.delay(setting{delay: wait, alias: "faultline test"}, env.Veth, "lo", env.Veth)
	during := dump(f.network.A)
	for _, want := range []string{d.device.Name, "46:4c:54:49:46:42", "alias faultline test", "mirred", "horizon 10s"} {
		if !strings.Contains(during, want) {
			t.Errorf("no %q in\n%s", want, during)
		}
	}
	if n := strings.Count(during, "mirred"); n != 2 {
		t.Errorf("two interfaces have %d filters:\n%s", n, during)
	}
	if strings.Contains(f.network.A.Run("ip", "-6", "address", "show", "dev", d.device.Name), "inet6") {
		t.Error("the device has an IPv6 address")
	}
	if differences, err := d.recorder.Differences(); err != nil || len(differences) != 1 {
		t.Errorf("a device that is there: differences %q, %v", differences, err)
	}
	open := d.recorder.Open()
	d.end()
	if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
		t.Error(diff)
	}
	// Once more, and from what a journal holds.
	for _, undo := range open {
		if err := decoded(t, undo).Undo(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func decoded(t *testing.T, undo fault.Undo) fault.Undo {
	t.Helper()
	text, err := json.Marshal(undo)
	if err != nil {
		t.Fatal(err)
	}
	again, err := faults.DecodeUndo(undo.Kind(), text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(undo, again); diff != "" {
		t.Error(diff)
	}
	return again
}

// A process takes over what another one has left, if it is the same.
func TestAdopt(t *testing.T) {
	f := newFixture(t)
	before := dump(f.network.A)
	d := f.delay(setting{delay: wait}, env.Veth)
	record := d.recorder.Open()[0].(ifb.Undo)
	undone, err := d.recorder.Record(record)
	if err != nil {
		t.Fatal(err)
	}
	if device, err := ifb.Adopt(d.ns, d.programs["choose"], record, undone); err == nil {
		t.Errorf("adopted %s with another program", device.Name)
	}
	device, err := ifb.Adopt(d.ns, d.programs["stamp"], record, undone)
	if err != nil {
		t.Fatal(err)
	}
	if device.Name != d.device.Name || device.Index != d.device.Index {
		t.Errorf("adopted %s, index %d, for %s, index %d", device.Name, device.Index, d.device.Name, d.device.Index)
	}
	during := dump(f.network.A)
	at := index(f.network.A, env.Veth)
	if err := device.Steer(at, d.steering()); err != nil {
		t.Error(err)
	}
	another := d.steering()
	another.Copy = d.programs["stamp"]
	if err := device.Steer(at, another); err == nil {
		t.Error("steered with another program")
	}
	if diff := cmp.Diff(during, dump(f.network.A)); diff != "" {
		t.Error(diff)
	}
	if err := device.Revert(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
		t.Error(diff)
	}
	if device, err := ifb.Adopt(d.ns, d.programs["stamp"], record, undone); device != nil || err != nil {
		t.Errorf("adopted what is gone: %v, %v", device, err)
	}
}

// Packets that wait when the fault is taken back arrive.
func TestWaitingPacketsArrive(t *testing.T) {
	const count = 200
	f := newFixture(t)
	pair := env.NewUDPPair(t, f.network, f.beyond, f.target, env.AddressB+":7000", count)
	d := f.delay(setting{delay: time.Second, namespace: f.network.B}, env.Veth)
	var sent env.Sent
	pair.Sender.Tell("go")
	pair.Sender.Read(&sent)
	if c := d.count(); c.Waiting == 0 {
		t.Fatalf("no packet waits: the test shows nothing: %+v", c)
	}
	d.end()
	pair.Receiver.Tell("report")
	var received []int
	pair.Receiver.Read(&received)
	if len(received) != count {
		t.Errorf("%d of %d arrived", len(received), count)
	}
	if !slices.IsSorted(received) {
		t.Errorf("out of order: %v", received)
	}
}

// What fq has no room for is lost, and counted.
func TestDropsAreCounted(t *testing.T) {
	const count, room = 200, 50
	f := newFixture(t)
	pair := env.NewUDPPair(t, f.network, f.beyond, f.target, env.AddressB+":7000", count)
	d := f.delay(setting{delay: 5 * time.Second, namespace: f.network.B, packets: room}, env.Veth)
	var sent env.Sent
	pair.Sender.Tell("go")
	pair.Sender.Read(&sent)
	await(t, func() error {
		if c := d.count(); c.Hit != count || c.Waiting+c.Passed != room || c.Dropped != count-room {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// inject makes a device in its namespace, steers args, and waits.
func inject(in io.Reader, out *json.Encoder, args []string) error {
	ns, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	programs, err := loadPlain()
	if err != nil {
		return err
	}
	recorder := &env.Recorder{}
	device, err := ifb.Create(noContext(), ns, ifb.Options{Longest: wait, Packets: 100, Stamp: programs["stamp"]}, recorder)
	if err != nil {
		return err
	}
	for _, name := range args {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := device.Steer(link.Attrs().Index, steering(programs)); err != nil {
			return err
		}
	}
	if err := out.Encode(device.Name); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	runtime.KeepAlive(programs)
	return err
}

func remnants(t *testing.T, ns *env.Namespace) (list []ifb.Undo) {
	t.Helper()
	all, err := faults.Remnants(t.Context(), "")
	if err != nil {
		t.Error(err)
	}
	for _, undo := range all {
		if u, ok := undo.(ifb.Undo); ok && u.NetNS == ns.Inode() {
			list = append(list, u)
		}
	}
	return list
}

func TestRemnants(t *testing.T) {
	f := newFixture(t)
	before := dump(f.network.A)
	start := func() (process *env.Process, name string) {
		process = env.Start(t, f.beyond, f.network.A, "inject", env.Veth, "lo")
		process.Read(&name)
		return process, name
	}
	check := func(name string) {
		t.Helper()
		list := remnants(t, f.network.A)
		if len(list) != 1 || list[0].Name != name {
			t.Fatalf("found %v, want %s", list, name)
		}
		for range 2 {
			if err := list[0].Undo(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
			t.Error(diff)
		}
	}

	process, name := start()
	if list := remnants(t, f.network.A); len(list) > 0 {
		t.Errorf("what belongs to a live process is taken for a remnant: %v", list)
	}
	process.Kill()
	check(name)

	// Somebody has removed the device: what leads there would drop packets.
	process, name = start()
	f.network.A.Run("ip", "link", "del", name)
	process.Kill()
	check(name)

	// The maker has died before it put anything on the device.
	f.network.A.Run("ip", "link", "add", "fl0123456789", "address", "46:4c:54:49:46:42", "type", "ifb")
	check("fl0123456789")
}

// What looks like ours and is not is left alone.
func TestForeignDevices(t *testing.T) {
	f := newFixture(t)
	for _, arguments := range [][]string{
		{"name", "fl0123456789", "type", "ifb"},
		{"name", "flower", "address", "46:4c:54:49:46:42", "type", "ifb"},
		{"name", "fl012345678a", "address", "46:4c:54:49:46:42", "type", "bridge"},
	} {
		f.network.A.Run("ip", append([]string{"link", "add"}, arguments...)...)
		if list := remnants(t, f.network.A); len(list) > 0 {
			t.Errorf("taken for a remnant: %v", list)
		}
		undo := ifb.Undo{NetNS: f.network.A.Inode(), Name: arguments[1]}
		if err := undo.Undo(t.Context()); err != nil {
			t.Error(err)
		}
		f.network.A.Run("ip", "link", "show", "dev", arguments[1])
		f.network.A.Run("ip", "link", "del", "dev", arguments[1])
	}
}

// A namespace or an interface that is gone has nothing to undo.
func TestUndoOfWhatIsGone(t *testing.T) {
	f := newFixture(t)
	if err := (ifb.Undo{NetNS: 1, Name: "fl0123456789"}).Undo(t.Context()); err != nil {
		t.Error(err)
	}
	d := f.delay(setting{delay: wait}, env.Veth)
	f.network.A.Run("ip", "link", "del", env.Veth)
	f.network.A.Run("ip", "link", "del", d.device.Name)
	d.end()
}

// On an error nothing is left.
func TestCreateThatFails(t *testing.T) {
	f := newFixture(t)
	before := dump(f.network.A)
	d := f.begin(setting{delay: wait})
	d.end()
	for name, options := range map[string]ifb.Options{
		"a program that is no tc program": {Longest: wait, Packets: 10, Stamp: newLooker(t, ebpf.CGroupSKB, false, 1).program},
		"an alias that is too long":       {Alias: strings.Repeat("x", 300), Longest: wait, Packets: 10, Stamp: d.programs["stamp"]},
		"a delay that is too long":        {Longest: 100 * time.Hour, Packets: 10, Stamp: d.programs["stamp"]},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := &env.Recorder{}
			device, err := ifb.Create(t.Context(), d.ns, options, recorder)
			if err == nil {
				t.Errorf("made %s", device.Name)
			}
			t.Log(err)
			if open := recorder.Open(); len(open) > 0 {
				t.Errorf("still to be undone: %v", open)
			}
			if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("no journal", func(t *testing.T) {
		_, err := ifb.Create(t.Context(), d.ns, ifb.Options{Longest: wait, Packets: 10, Stamp: d.programs["stamp"]}, &noJournal{})
		if !errors.Is(err, errNoJournal) {
			t.Error(err)
		}
		if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a program that can't steer", func(t *testing.T) {
		d := f.begin(setting{delay: wait})
		another := d.steering()
		another.Copy = newLooker(t, ebpf.CGroupSKB, false, 1).program
		if err := d.device.Steer(index(f.network.A, env.Veth), another); err == nil {
			t.Error("no error")
		}
		d.end()
		if diff := cmp.Diff(before, dump(f.network.A)); diff != "" {
			t.Error(diff)
		}
	})
}

var errNoJournal = errors.New("the disk is full")

type noJournal struct{ env.Recorder }

func (*noJournal) Record(fault.Undo) (fault.Undone, error) { return nil, errNoJournal }

func (*noJournal) Watch(fault.Watch) error { return nil }

//go:build linux && privileged

package qdisc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// tree is a way in which an interface may queue.
type tree struct {
	name, device string
	commands     []string
	// root is ours in its place.
	root string
	// default_qdisc, when it matters.
	byDefault string
}

const (
	fqDefault  = "fq fa17:"
	fqExplicit = "fq fa18:"
	mqDefault  = "mq fa17:"
	mqExplicit = "mq fa18:"
)

var trees = []tree{
	{name: "veth", device: "eth0", root: fqDefault},
	{name: "lo", device: "lo", root: fqDefault},
	{name: "veth with four queues", device: "quad0", root: fqDefault},
	{name: "tap", device: "tap0", root: "mq fa17:", commands: []string{"ip tuntap add tap0 mode tap multi_queue", "ip link set tap0 up"}},
	{name: "default fq_codel", device: "tap0", byDefault: "fq_codel", root: fqDefault,
		commands: []string{"ip tuntap add tap0 mode tap", "ip link set tap0 up"}},
	{name: "default pfifo_fast", device: "tap0", byDefault: "pfifo_fast", root: fqDefault,
		commands: []string{"ip tuntap add tap0 mode tap", "ip link set tap0 up"}},
	{name: "default mq of pfifo_fast", device: "many0", byDefault: "pfifo_fast", root: mqDefault,
		commands: []string{"ip link add many0 numtxqueues 4 type ifb", "ip link set many0 up"}},
	{name: "default mq of fq_codel", device: "many0", byDefault: "fq_codel", root: mqDefault,
		commands: []string{"ip link add many0 numtxqueues 4 type ifb", "ip link set many0 up"}},
	{name: "down", device: "tap0", root: fqDefault, commands: []string{"ip tuntap add tap0 mode tap"}},
	{name: "explicit noqueue", device: "eth0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: noqueue"}},
	{name: "explicit pfifo_fast", device: "eth0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: pfifo_fast"}},
	{name: "explicit fq_codel", device: "eth0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root fq_codel"}},
	{name: "configured fq_codel", device: "eth0", root: fqExplicit, commands: []string{
		"tc qdisc add dev DEV root handle abcd: fq_codel limit 77 flows 64 target 7ms interval 133ms quantum 999 ce_threshold 3ms noecn memory_limit 3Mb drop_batch 5"}},
	{name: "fq_codel with an overhead", device: "eth0", root: fqExplicit, commands: []string{
		"tc qdisc add dev DEV root handle 1: stab overhead 20 fq_codel"}},
	{name: "one explicit fq_codel for four queues", device: "quad0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: fq_codel"}},
	{name: "explicit mq", device: "quad0", root: mqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: mq"}},
	{name: "explicit mq with leaves of all kinds", device: "quad0", root: mqExplicit, commands: []string{
		"tc qdisc add dev DEV root handle 5: mq",
		"tc qdisc replace dev DEV parent 5:1 handle 10: fq_codel limit 33 target 11ms",
		"tc qdisc replace dev DEV parent 5:3 fq limit 333 flow_limit 22 horizon 3s nopacing",
		"tc qdisc replace dev DEV parent 5:4 pfifo_fast"}},
	{name: "default mq made explicit on ifb", device: "many0", root: mqExplicit, commands: []string{
		"ip link add many0 numtxqueues 3 type ifb", "ip link set many0 up", "tc qdisc replace dev DEV root handle 1: mq",
		"tc qdisc replace dev DEV parent 1:2 handle 12: fq_codel"}},
}

// device makes the tree.
func (tr tree) make(t *testing.T, hook string) *device {
	t.Helper()
	if tr.byDefault != "" {
		setDefault(t, tr.byDefault)
	}
	for _, command := range tr.commands {
		if strings.HasSuffix(command, "type ifb") {
			needs(t, kernel.IFB)
		}
	}
	return newDevice(t, hook, tr.device, tr.commands...)
}

// setDefault changes what the kernel makes by default, everywhere: only a guest
// may have that done to it.
func setDefault(t *testing.T, kind string) {
	t.Helper()
	const sysctl = "/proc/sys/net/core/default_qdisc"
	if _, guest, err := kernels.Current(); err != nil || !guest {
		t.Skip("changes the default of the whole machine: only in a guest")
	}
	before, err := os.ReadFile(sysctl)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sysctl, []byte(kind), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(sysctl, before, 0o600); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatWasThereIsPutBack(t *testing.T) {
	// Which of the hooks it is makes no difference to the tree.
	available := hooks(t)
	for i, tr := range trees {
		t.Run(tr.name, func(t *testing.T) {
			d := tr.make(t, available[i%len(available)])
			before := d.dump()
			view, err := qdisc.Look(d.ns, d.index, qdisc.Params{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s; undone by %s", view.Action(), view.Undo())
			d.unchanged(before)
			rec := &env.Recorder{}
			a := d.actor(rec)
			a.steps(t, begun...)
			d.has(tr.root)
			if text := d.show(); strings.Count(text, " limit ") != strings.Count(text, "flow_limit") || !strings.Contains(text, "flow_limit") {
				t.Errorf("a queue without fq:\n%s", text)
			}
			if want := (qdisc.Limits{Packets: 160_000, FlowPackets: 40_000, Horizon: 10 * time.Second}); a.limits != want {
				t.Errorf("limits %+v, want %+v", a.limits, want)
			}
			a.steps(t, "make")
			a.steps(t, "undo")
			d.clean(before)
			if open := rec.Open(); len(open) > 0 {
				t.Errorf("open: %v", open)
			}
			a.steps(t, "undo")
			d.clean(before)
		})
	}
}

// clean compares when the filters of the actors are gone, with their clsact.
func (d *device) clean(before string) {
	d.t.Helper()
	if strings.Contains(d.show(), "qdisc clsact") && !strings.Contains(before, "clsact") {
		if filters := d.run("tc filter show dev DEV egress"); filters != "" {
			d.t.Errorf("left: %s", filters)
		}
		d.run("tc qdisc del dev DEV clsact")
	}
	d.unchanged(before)
}

// An fq that somebody has is used as it is.
func TestFQIsUsedAsItIs(t *testing.T) {
	needs(t, kernel.FQ)
	for _, test := range []tree{
		{name: "fq", device: "eth0", commands: []string{"tc qdisc add dev DEV root handle 5: fq limit 1234 flow_limit 56 horizon 3s"}},
		{name: "mq with fq", device: "quad0", commands: []string{"tc qdisc add dev DEV root handle 5: mq",
			"tc qdisc replace dev DEV parent 5:1 fq limit 1234 flow_limit 900 horizon 5s",
			"tc qdisc replace dev DEV parent 5:2 fq limit 3333 flow_limit 56 horizon 4s",
			"tc qdisc replace dev DEV parent 5:3 fq", "tc qdisc replace dev DEV parent 5:4 fq horizon 3s"}},
		{name: "default fq", device: "tap0", byDefault: "fq", commands: []string{"ip tuntap add tap0 mode tap", "ip link set tap0 up"}},
		{name: "default mq of fq", device: "many0", byDefault: "fq", commands: []string{"ip link add many0 numtxqueues 4 type ifb", "ip link set many0 up"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			hook := hooks(t)[0]
			d := test.make(t, hook)
			before := d.dump()
			rec := &env.Recorder{}
			a := d.actor(rec)
			a.steps(t, begun...)
			want := qdisc.Limits{Packets: 1234, FlowPackets: 56, Horizon: 3 * time.Second}
			if test.byDefault != "" {
				want = qdisc.Limits{Packets: 10_000, FlowPackets: 100, Horizon: 10 * time.Second}
			}
			view, err := qdisc.Look(d.ns, d.index, qdisc.Params{})
			if err != nil || view.State != qdisc.Foreign || view.Limits != want || view.Action() != "" || a.limits != want ||
				len(view.Warnings) != 1 || !strings.Contains(view.Warnings[0], fmt.Sprintf(" %d packets", want.FlowPackets)) {
				t.Errorf("%+v, %v, limits %+v, want %+v", view, err, a.limits, want)
			}
			a.params.Delay = want.Horizon
			if err := a.make(); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), want.Horizon.String()) {
				t.Errorf("a delay as long as the horizon: %v", err)
			}
			if err := a.reserve(); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), want.Horizon.String()) {
				t.Errorf("a delay as long as the horizon: %v", err)
			}
			a.steps(t, "undo")
			if open := rec.Open(); len(open) > 0 {
				t.Errorf("open: %v", open)
			}
			d.clean(before)
		})
	}
}

func TestOtherTreesAreRefusedByName(t *testing.T) {
	needs(t, kernel.FQ)
	for _, test := range []struct {
		want     string
		device   string
		commands []string
	}{
		{"qdisc htb (1:)", "eth0", []string{"tc qdisc add dev DEV root handle 1: htb"}},
		{"qdisc prio (1:)", "eth0", []string{"tc qdisc add dev DEV root handle 1: prio"}},
		{"qdisc tbf (1:)", "eth0", []string{"tc qdisc add dev DEV root handle 1: tbf rate 1mbit burst 10k latency 1s"}},
		{"qdisc netem (1:)", "eth0", []string{"tc qdisc add dev DEV root handle 1: netem delay 1ms"}},
		{"qdisc htb (fa17:)", "eth0", []string{"tc qdisc add dev DEV root handle fa17: htb"}},
		{"qdisc tbf (10:) below mq (1:)", "quad0", []string{"tc qdisc add dev DEV root handle 1: mq",
			"tc qdisc replace dev DEV parent 1:2 handle 10: tbf rate 1mbit burst 10k latency 1s"}},
		{"filters", "eth0", []string{"tc qdisc add dev DEV root handle 1: fq_codel",
			"tc filter add dev DEV parent 1: protocol ip prio 7 matchall classid 1:3"}},
		{"rate estimator", "eth0", []string{"tc qdisc add dev DEV root handle 1: est 1sec 4sec fq_codel"}},
		{"size table", "eth0", []string{"tc qdisc add dev DEV root handle 1: stab mtu 2047 tsize 512 mpu 64 overhead 20 linklayer atm fq_codel"}},
		{"another fault", "eth0", []string{"tc qdisc add dev DEV root handle fa18: fq"}},
	} {
		t.Run(test.want, func(t *testing.T) {
			d := newDevice(t, "cls_bpf", test.device)
			for _, command := range test.commands {
				if out, err := d.try(command); err != nil {
					kernels.Missing(t, command, fmt.Errorf("%s", out))
				}
			}
			// htb counts packets in its options.
			state := func() string { return regexp.MustCompile(`htb .*`).ReplaceAllString(d.dump(), "htb") }
			before := state()
			rec := &env.Recorder{}
			err := d.actor(rec).reserve()
			if !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.device) {
				t.Errorf("%v", err)
			}
			t.Log(err)
			if len(rec.Open()) > 0 {
				t.Error("recorded something")
			}
			env.Unchanged(t, before, state())
		})
	}
}

// What the kernel would make by default is another one by now.
func TestDefaultThatHasChangedIsRefused(t *testing.T) {
	needs(t, kernel.FQ)
	setDefault(t, "pfifo_fast")
	d := newDevice(t, "cls_bpf", "tap0", "ip tuntap add tap0 mode tap", "ip link set tap0 up")
	setDefault(t, "fq_codel")
	if _, err := qdisc.Look(d.ns, d.index, qdisc.Params{}); !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), "pfifo_fast") {
		t.Error(err)
	}
}

// fq_codel takes its quantum from the MTU of the moment when it is made.
func TestMTUThatHasChangedIsAWarning(t *testing.T) {
	needs(t, kernel.FQ)
	setDefault(t, "fq_codel")
	d := newDevice(t, "cls_bpf", "tap0", "ip tuntap add tap0 mode tap", "ip link set tap0 up", "ip link set tap0 mtu 1400")
	view, err := qdisc.Look(d.ns, d.index, qdisc.Params{})
	if err != nil || len(view.Warnings) != 1 || !strings.Contains(view.Warnings[0], "1500") || !strings.Contains(view.Warnings[0], "1400") {
		t.Fatalf("%+v, %v", view, err)
	}
	before, raw := d.lines(), d.dump()
	a := d.actor(&env.Recorder{})
	a.steps(t, begun...)
	a.steps(t, "undo")
	d.run("tc qdisc del dev DEV clsact")
	if d.dump() == raw {
		t.Error("the quantum is as before: the test shows nothing")
	}
	if after := qdisc.Lasting(before, d.lines()); len(after) != 1 || after[0] != d.lines()[0] {
		t.Errorf("before %q, after %q", before, d.lines())
	}
}

// Records are read back by the package that knows all kinds.
func TestRecordsAreDecoded(t *testing.T) {
	root := qdisc.Root{NetNS: 1, Interface: "eth0", Index: 2, Mark: qdisc.MarkExplicit, Lease: 3, Before: qdisc.Tree{{Kind: "fq_codel", Handle: 1 << 16, Parent: 0xffffffff, Options: []byte{1, 2}}}}
	data, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	undo, err := faults.DecodeUndo(root.Kind(), data)
	if err != nil || undo.Describe() != root.Describe() || !strings.Contains(root.Describe(), "make fq_codel (1:) again") {
		t.Errorf("%v, %v", undo, err)
	}
}

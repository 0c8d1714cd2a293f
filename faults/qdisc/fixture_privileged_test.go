//go:build linux && privileged

package qdisc_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"keep": env.Threads, "fault": actorProcess})
}

// needs skips the test where the kernel lacks something, and fails it where the
// kernel is declared to have it.
func needs(t *testing.T, capabilities ...kernel.Capability) {
	t.Helper()
	prober := env.Prober(t)
	for _, c := range capabilities {
		if answer := prober.Probe(t.Context(), c); !answer.OK() {
			kernels.Missing(t, string(c), errors.New(answer.Reason))
		}
	}
}

// hooks are the ways of a program to the egress that the kernel has.
func hooks(t *testing.T) []string {
	t.Helper()
	needs(t, kernel.ClsBPF)
	prober := env.Prober(t)
	if prober.Probe(t.Context(), kernel.TCX).OK() {
		return []string{"cls_bpf", "tcx"}
	}
	return []string{"cls_bpf"}
}

func eachHook(t *testing.T, fn func(t *testing.T, hook string)) {
	needs(t, kernel.FQ)
	for _, hook := range hooks(t) {
		t.Run(hook, func(t *testing.T) { fn(t, hook) })
	}
}

// device is an interface in a network namespace of its own.
type device struct {
	t      *testing.T
	env    *env.Namespace
	peer   *env.Namespace
	ns     *netns.Namespace
	keeper *env.Process
	name   string
	index  int
	hook   string
}

// newDevice runs the commands (ip or tc, with DEV for the name) in a namespace
// that has a veth eth0, and takes the interface. One that does not exist then is
// a veth with four queues.
func newDevice(t *testing.T, hook, name string, commands ...string) *device {
	t.Helper()
	needs(t, kernel.FQ)
	network := env.NewNetwork(t)
	d := &device{t: t, env: network.A, peer: network.B, name: name, hook: hook}
	// Without a process in it, nobody would find the namespace.
	d.keeper = env.Start(t, env.Cgroup(t), network.A, "keep")
	var tids []int
	d.keeper.Read(&tids)
	if name == "quad0" {
		d.run("ip link add quad0 numtxqueues 4 type veth peer name quad1 numtxqueues 4")
		d.run("ip link set quad0 up")
		d.run("ip link set quad1 up")
	}
	for _, command := range commands {
		d.run(command)
	}
	ns, err := netns.Find(network.A.Inode())
	if err != nil || ns == nil {
		t.Fatalf("namespace %v, %v", ns, err)
	}
	d.ns = ns
	t.Cleanup(func() { _ = ns.Close() })
	d.env.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			d.index = l.Attrs().Index
		}
		return err
	})
	return d
}

func (d *device) run(command string) string {
	d.t.Helper()
	fields := strings.Fields(strings.ReplaceAll(command, "DEV", d.name))
	return d.env.Run(fields[0], fields[1:]...)
}

// dump is what RTM_GETQDISC says of the interface, byte for byte but for the
// statistics, and not by the code under test.
func (d *device) dump() string {
	d.t.Helper()
	var messages [][]byte
	d.env.Do(func() (err error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
		req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL})
		messages, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
		return err
	})
	var lines []string
	for _, message := range messages {
		msg := nl.DeserializeTcMsg(message)
		if int(msg.Ifindex) != d.index {
			continue
		}
		attributes, err := nl.ParseRouteAttr(message[nl.SizeofTcMsg:])
		if err != nil {
			d.t.Fatal(err)
		}
		line := fmt.Sprintf("%08x %08x %d", msg.Parent, msg.Handle, msg.Info)
		for _, a := range attributes {
			switch a.Attr.Type {
			case nl.TCA_STATS, nl.TCA_STATS2, nl.TCA_XSTATS:
			case nl.TCA_KIND:
				line += " " + nl.BytesToString(a.Value)
			default:
				line += fmt.Sprintf(" %d:%s", a.Attr.Type, hex.EncodeToString(a.Value))
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// unchanged compares.
func (d *device) unchanged(before string) {
	d.t.Helper()
	env.Unchanged(d.t, before, d.dump())
}

// show is tc's view.
func (d *device) show() string {
	d.t.Helper()
	return d.run("tc qdisc show dev DEV")
}

// has fails when the root is not of the kind and handle.
func (d *device) has(root string) {
	d.t.Helper()
	if text := d.show(); !strings.Contains(text, "qdisc "+root+" root") {
		d.t.Errorf("want %s, have\n%s", root, text)
	}
}

// actor is a fault that needs fq.
type actor struct {
	ns      *netns.Namespace
	index   int
	hook    string
	params  qdisc.Params
	rec     fault.Recorder
	program *ebpf.Program
	lease   *ebpf.Map
	hold    *qdisc.Hold
	link    link.Link
	limits  qdisc.Limits
}

func newActor(ns *netns.Namespace, index int, hook string, rec fault.Recorder, instructions ...asm.Instruction) (*actor, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	a := &actor{ns: ns, index: index, hook: hook, rec: rec, params: qdisc.Params{Delay: 100 * time.Millisecond}}
	var err error
	a.lease, err = ebpf.NewMap(&ebpf.MapSpec{Name: qdisc.LeaseMap, Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	spec := &ebpf.ProgramSpec{Name: qdisc.ProgramCls, Type: ebpf.SchedCLS, License: "GPL"}
	if hook == "tcx" {
		spec.Name, spec.AttachType = qdisc.ProgramTCX, ebpf.AttachTCXEgress
	}
	spec.Instructions = slices.Concat(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, a.lease.FD()),
	}, instructions, asm.Instructions{
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	})
	a.program, err = ebpf.NewProgram(spec)
	return a, err
}

func (a *actor) reserve() error {
	hold, err := qdisc.Reserve(a.ns, a.index, a.program, a.params, a.rec)
	if err == nil {
		a.hold = hold
	}
	return err
}

func (a *actor) attach() error {
	if a.hook == "tcx" {
		return a.ns.Do(func() (err error) {
			a.link, err = link.AttachTCX(link.TCXOptions{Interface: a.index, Program: a.program, Attach: ebpf.AttachTCXEgress})
			return err
		})
	}
	h, err := a.ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: a.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return h.FilterAdd(a.filter())
}

func (a *actor) filter() *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: a.index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: uint16(os.Getpid()%60000 + 1), Protocol: unix.ETH_P_ALL},
		Fd:          a.program.FD(), Name: "held", DirectAction: true,
	}
}

func (a *actor) make() (err error) {
	a.limits, err = a.hold.Make(a.params)
	return err
}

// until sets the end of the lease, from now on.
func (a *actor) until(d time.Duration) error {
	var value [16]byte
	binary.NativeEndian.PutUint64(value[:], fault.BootTime()+uint64(d))
	binary.NativeEndian.PutUint64(value[8:], fault.BootTime())
	return a.lease.Put(uint32(0), value[:])
}

func (a *actor) undo() error { return a.hold.Undo(context.Background()) }

// do is one step by its name.
func (a *actor) do(step string) error {
	switch name, argument, _ := strings.Cut(step, " "); name {
	case "reserve":
		return a.reserve()
	case "attach":
		return a.attach()
	case "make":
		return a.make()
	case "lease":
		d, err := time.ParseDuration(argument)
		return errors.Join(err, a.until(d))
	case "undo":
		return a.undo()
	default:
		return fmt.Errorf("no step %q", step)
	}
}

// steps does them in their order.
func (a *actor) steps(t *testing.T, steps ...string) {
	t.Helper()
	for _, step := range steps {
		if err := a.do(step); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
}

// begun are the steps of a fault until it runs.
var begun = []string{"reserve", "attach", "make", "lease 10m"}

// actor is one in this process.
func (d *device) actor(rec fault.Recorder, instructions ...asm.Instruction) *actor {
	d.t.Helper()
	a, err := newActor(d.ns, d.index, d.hook, rec, instructions...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if a.link != nil {
			_ = a.link.Close()
		}
		_ = a.program.Close()
		_ = a.lease.Close()
	})
	return a
}

// actorProcess is a workload: args are the namespace's inode, the interface's
// index, the hook and the file for the record. It does the steps that it is
// told on its input.
func actorProcess(in io.Reader, out *json.Encoder, args []string) error {
	inode, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	index, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ns, err := netns.Find(inode)
	if err != nil || ns == nil {
		return fmt.Errorf("no namespace %d: %w", inode, err)
	}
	a, err := newActor(ns, index, args[2], recordFile(args[3]))
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "revert") {
			err = recordFile(args[3]).revert()
		} else {
			err = a.do(lines.Text())
		}
		answer := "done"
		if err != nil {
			answer = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

// recordFile is a journal of one record.
type recordFile string

func (r recordFile) Record(undo fault.Undo) (fault.Undone, error) {
	data, err := json.Marshal(undo)
	if err != nil {
		return nil, err
	}
	return undo, os.WriteFile(string(r), data, 0o600)
}

func (recordFile) Watch(fault.Watch) error { return nil }
func (recordFile) PinDir() string          { return "" }
func (recordFile) Commons() *fault.Commons { return nil }

// revert undoes by the record alone, if there is one.
func (r recordFile) revert() error {
	data, err := os.ReadFile(string(r))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var root qdisc.Root
	if err := errors.Join(err, json.Unmarshal(data, &root)); err != nil {
		return err
	}
	return root.Undo(context.Background())
}

// other is a fault in a process of its own.
type other struct {
	*env.Process
	t      *testing.T
	record recordFile
}

func (d *device) other() *other {
	d.t.Helper()
	o := &other{t: d.t, record: d.record()}
	o.Process = env.Start(d.t, env.Cgroup(d.t), nil, "fault", d.args(o.record)...)
	return o
}

func (d *device) record() recordFile { return recordFile(filepath.Join(d.t.TempDir(), "record")) }

func (d *device) args(record recordFile) []string {
	return []string{strconv.FormatUint(d.ns.Inode, 10), strconv.Itoa(d.index), d.hook, string(record)}
}

// ask does one step and returns its error's text.
func (o *other) ask(step string) string {
	o.t.Helper()
	o.Tell(step)
	var answer string
	o.Read(&answer)
	return answer
}

func (o *other) steps(steps ...string) {
	o.t.Helper()
	for _, step := range steps {
		if answer := o.ask(step); answer != "done" {
			o.t.Fatalf("%s: %s", step, answer)
		}
	}
}

// try runs a command that may fail.
func (d *device) try(command string) (output string, err error) {
	fields := strings.Fields(strings.ReplaceAll(command, "DEV", d.name))
	d.env.Do(func() error {
		var text []byte
		text, err = exec.Command(fields[0], fields[1:]...).CombinedOutput()
		output = string(text)
		return nil
	})
	return output, err
}

// lines are those of a watch.
func (d *device) lines() (lines []string) {
	d.t.Helper()
	h, err := d.ns.Handle()
	if err != nil {
		d.t.Fatal(err)
	}
	defer h.Close()
	l, err := h.LinkByIndex(d.index)
	if err != nil {
		d.t.Fatal(err)
	}
	if lines, err = qdisc.Lines(d.ns, l); err != nil {
		d.t.Fatal(err)
	}
	return lines
}

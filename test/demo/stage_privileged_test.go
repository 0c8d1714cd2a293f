//go:build linux && privileged

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/kernels"
)

// TestMain lets the test binary be the processes on a stage.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

func setStage(t *testing.T) *stage {
	t.Helper()
	s, err := newStage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestClientsReachTheServiceAndNothingIsLeft(t *testing.T) {
	s := setStage(t)
	root := s.root
	if _, err := s.start(roleService, s.service, os.Stderr); err != nil {
		t.Fatal(err)
	}
	lines, err := s.start(roleClient, s.client, os.Stderr, rateVariable+"=40")
	if err != nil {
		t.Fatal(err)
	}
	answered := false
	for !answered && lines.Scan() {
		var one report
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		for _, r := range one.Requests {
			answered = answered || !r.Failed
		}
	}
	if !answered {
		t.Error("the client ended without an answer")
	}
	client := s.processes[roleClient]
	procs, err := os.ReadFile(s.cgroup(roleClient) + "/cgroup.procs")
	if want := fmt.Sprintf("%d\n", client.Process.Pid); string(procs) != want || err != nil {
		t.Errorf("in the client's cgroup: %q, %v; want %q", procs, err, want)
	}
	if _, err := retransmitted(client.Process.Pid); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	if client.ProcessState == nil {
		t.Error("the client still runs")
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: got %v, want that it does not exist", root, err)
	}
}

func TestMachineSeesNoInterface(t *testing.T) {
	before, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	setStage(t)
	after, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(before), names(after)); diff != "" {
		t.Errorf("interfaces (-before +after):\n%s", diff)
	}
}

func names(links []netlink.Link) []string {
	var out []string
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	return out
}

func TestWhatIsAttachedIsSeen(t *testing.T) {
	s := setStage(t)
	expect := func(when string, want []string) {
		t.Helper()
		got, err := s.attached()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	expect("at first", nil)

	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSKB,
		AttachType:   ebpf.AttachCGroupInetEgress,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	onCgroup, err := link.AttachCgroup(link.CgroupOptions{
		Path: s.cgroup(roleBystander), Attach: ebpf.AttachCGroupInetEgress, Program: program,
	})
	if err != nil {
		t.Fatal(err)
	}
	inetEgress := "inet_egress of cgroup " + s.name(roleBystander)
	expect("with a cgroup's program", []string{inetEgress})

	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	err = s.service.do(func() error {
		l, err := netlink.LinkByName(vethName)
		if err != nil {
			return err
		}
		qdisc.LinkIndex = l.Attrs().Index
		return netlink.QdiscAdd(qdisc)
	})
	if err != nil {
		t.Fatal(err)
	}
	expect("with a qdisc, too", []string{inetEgress, "qdisc clsact of eth0 in the service's network"})
	if err := s.service.do(func() error { return netlink.QdiscDel(qdisc) }); err != nil {
		t.Fatal(err)
	}
	if err := onCgroup.Close(); err != nil {
		t.Fatal(err)
	}
	// The kernel detaches after the last close, not in it.
	err = within(10*time.Second, func() error {
		if got, err := s.attached(); err != nil || len(got) > 0 {
			return fmt.Errorf("still attached: %v: %w", got, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestInterfacesProgramIsSeen(t *testing.T) {
	s := setStage(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	var attached link.Link
	err = s.client.do(func() error {
		l, err := netlink.LinkByName(vethName)
		if err != nil {
			return err
		}
		attached, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Attach: ebpf.AttachTCXEgress, Program: program})
		return err
	})
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		kernels.Missing(t, "tcx", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = attached.Close() }()
	got, err := s.attached()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"tcx egress of eth0 in the client's network"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inNetns runs fn on a thread of its own that is in a new network namespace,
// in which only lo exists, and is up. The namespace has no name and goes with
// the last thing that refers to it.
func inNetns(fn func(lo netlink.Link) error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			result <- atStage(stageSetup, fmt.Errorf("opening the network namespace: %w", err))
			return
		}
		defer unix.Close(back)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- atStage(stageSetup, fmt.Errorf("making a network namespace: %w", err))
			return
		}
		err = func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return atStage(stageSetup, fmt.Errorf("finding lo: %w", err))
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return atStage(stageSetup, fmt.Errorf("setting lo up: %w", err))
			}
			return fn(lo)
		}()
		// A thread that can't go back stays locked and dies with this goroutine.
		if berr := unix.Setns(back, unix.CLONE_NEWNET); berr == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// loopback is where probes send: the discard port, on which nobody listens in a
// new namespace. Each caller gets its own, because a system call writes into it.
func loopback() *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
}

// sendOne sends one UDP packet over lo. The egress hooks of tc run before
// sendto returns.
func sendOne() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return atStage(stageSetup, fmt.Errorf("making a socket: %w", err))
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("probe"), 0, loopback()); err != nil {
		return atStage(stageSetup, fmt.Errorf("sending a packet: %w", err))
	}
	return nil
}

// counter is a program that counts its runs in a map.
type counter struct {
	prog *ebpf.Program
	runs *ebpf.Map
}

// newCounter loads a tc program that counts and passes the packet on
// (TCX_NEXT, TC_ACT_UNSPEC).
func newCounter(at ebpf.AttachType) (*counter, error) {
	runs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, atStage(stageLoad, err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_count", Type: ebpf.SchedCLS, AttachType: at, License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, runs.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		runs.Close()
		return nil, atStage(stageLoad, err)
	}
	return &counter{prog, runs}, nil
}

func (c *counter) close() {
	c.prog.Close()
	c.runs.Close()
}

// sees sends a packet and says whether the program ran.
func (c *counter) sees() error {
	if err := sendOne(); err != nil {
		return err
	}
	var n uint64
	if err := c.runs.Lookup(uint32(0), &n); err != nil {
		return atStage(stageSetup, fmt.Errorf("reading the probe's counter: %w", err))
	}
	if n == 0 {
		return noBecause("a program attaches to the interface but sees no packet", "")
	}
	return nil
}

func probeTCX(*Prober) error {
	return inNetns(func(lo netlink.Link) error {
		c, err := newCounter(ebpf.AttachTCXEgress)
		if err != nil {
			return err
		}
		defer c.close()
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: lo.Attrs().Index, Program: c.prog, Attach: ebpf.AttachTCXEgress,
		})
		if err != nil {
			return atStage(stageAttach, fmt.Errorf("attaching by tcx: %w", err))
		}
		defer l.Close()
		return c.sees()
	})
}

func probeClsBPF(*Prober) error {
	return inNetns(func(lo netlink.Link) error {
		c, err := newCounter(ebpf.AttachNone)
		if err != nil {
			return err
		}
		defer c.close()
		err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}})
		if err != nil {
			return device("adding qdisc clsact", err, "kernel module sch_ingress")
		}
		err = netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: c.prog.FD(), Name: "fl_count", DirectAction: true,
		})
		if err != nil {
			return device("adding a bpf filter", err, "kernel module cls_bpf")
		}
		return c.sees()
	})
}

// device explains an error of rtnetlink: what the kernel does not know it
// reports as ENOENT or EOPNOTSUPP after it has asked for the module in vain.
func device(doing string, err error, module string) error {
	for _, e := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EINVAL} {
		if errors.Is(err, e) {
			return noBecause(fmt.Sprintf("%s: the kernel does not know it and loaded no module for it (%v)", doing, err), module)
		}
	}
	return atStage(stageDevice, fmt.Errorf("%s: %w", doing, err))
}

// root puts a qdisc at the root of lo.
func root(doing string, qdisc func(netlink.QdiscAttrs) netlink.Qdisc) error {
	return inNetns(func(lo netlink.Link) error {
		err := netlink.QdiscAdd(qdisc(netlink.QdiscAttrs{
			LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
		}))
		if err != nil {
			return device(doing, err, "")
		}
		return nil
	})
}

func probeFQ(*Prober) error {
	return root("adding qdisc fq", func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewFq(a) })
}

func probePrio(*Prober) error {
	return root("adding qdisc prio", func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewPrio(a) })
}

func probeNetem(*Prober) error {
	return root("adding qdisc netem", func(a netlink.QdiscAttrs) netlink.Qdisc {
		return netlink.NewNetem(a, netlink.NetemQdiscAttrs{Latency: 1000})
	})
}

func probeTBF(*Prober) error {
	return root("adding qdisc tbf", func(a netlink.QdiscAttrs) netlink.Qdisc {
		return &netlink.Tbf{QdiscAttrs: a, Rate: 1 << 20, Limit: 1 << 16, Buffer: 1 << 16}
	})
}

// probeIFB loads the module itself where it is not there yet: by default the
// module makes ifb0 and ifb1 in the host's network namespace when it is loaded,
// and numifbs=0 keeps it from that.
func probeIFB(*Prober) error {
	if there, err := HasIFB(); err != nil {
		return atStage(stageSetup, fmt.Errorf("looking for ifb: %w", err))
	} else if !there {
		if err := loadIFB(); err != nil {
			return err
		}
	}
	return inNetns(func(netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "flprobe0"
		if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
			return device("making an ifb interface", err, "kernel module ifb")
		}
		link, err := netlink.LinkByName(attrs.Name)
		if err != nil {
			return atStage(stageDevice, fmt.Errorf("looking for the ifb interface: %w", err))
		}
		if err := addMirred(link.Attrs().Index); err != nil {
			return device("adding a redirection (mirred)", err, "kernel module act_mirred")
		}
		return nil
	})
}

// HasIFB tells whether the driver ifb is built into the kernel, or loaded. A
// built-in one has no folder in /sys/module.
func HasIFB() (bool, error) {
	if _, err := os.Stat("/sys/module/ifb"); err == nil {
		return true, nil
	}
	return hasSymbol("/proc/kallsyms", "ifb_xmit")
}

// addMirred makes an action that redirects to an interface, for filters yet to
// come. It ends with the namespace.
func addMirred(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWACTION, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(&nl.TcActionMsg{Family: nl.FAMILY_ALL})
	actions := nl.NewRtAttr(nl.TCA_ACT_TAB, nil)
	if err := netlink.EncodeActions(actions, []netlink.Action{netlink.NewMirredAction(index)}); err != nil {
		return err
	}
	req.AddData(actions)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// hasSymbol reports whether the kernel or a loaded module has a function, by a
// listing in the format of /proc/kallsyms.
func hasSymbol(kallsyms, name string) (bool, error) {
	f, err := os.Open(kallsyms)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// address, type, name; then a tab and the module
		_, rest, _ := bytes.Cut(sc.Bytes(), []byte(" "))
		_, rest, _ = bytes.Cut(rest, []byte(" "))
		if symbol, _, _ := bytes.Cut(rest, []byte("\t")); string(symbol) == name {
			return true, nil
		}
	}
	return false, sc.Err()
}

// loadIFB runs modprobe(8).
func loadIFB() error {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		return noBecause("the kernel has no ifb and loads no modules", "a kernel built with CONFIG_IFB=y")
	}
	modprobe, err := lookModprobe()
	if err != nil {
		return unknownBecause("the module ifb is not loaded and there is no modprobe to load it with",
			"install kmod, or run modprobe ifb numifbs=0")
	}
	out, err := exec.Command(modprobe, "ifb", "numifbs=0").CombinedOutput()
	if err == nil {
		return nil
	}
	reason := fmt.Sprintf("loading the module ifb: %v: %s", err, strings.TrimSpace(string(out)))
	// In a container the host's modules may be out of sight.
	if !sameMounts("/proc/1/ns/mnt", "/proc/self/ns/mnt") {
		return unknownBecause(reason, "run modprobe ifb numifbs=0 on the host")
	}
	return noBecause(reason, "")
}

// sameMounts compares two mount namespaces.
func sameMounts(a, b string) bool {
	na, aerr := os.Readlink(a)
	nb, berr := os.Readlink(b)
	return aerr == nil && berr == nil && na == nb
}

// lookModprobe finds modprobe also where PATH lacks the sbin directories.
func lookModprobe() (string, error) {
	if path, err := exec.LookPath("modprobe"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/modprobe", "/sbin/modprobe"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// returning is a program that answers v.
func returning(v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v), asm.Return()}
}

// onCgroup attaches the program to a cgroup of the probe's own, lets a child
// work there before and after, and compares: fired gets what the child met with
// the program attached. Without the program every call of the child succeeds.
func (p *Prober) onCgroup(prog *ebpf.Program, at ebpf.AttachType, fired func(outcome) bool) error {
	return withCgroup(p.cgroupRoot, func(dir string) error {
		return inNetns(func(netlink.Link) error {
			before, err := runIn(dir)
			if err != nil {
				return err
			}
			if before != (outcome{}) {
				return unknownBecause(fmt.Sprintf("the probe's own traffic fails without a program (%+v)", before), "")
			}
			f, err := os.Open(dir)
			if err != nil {
				return atStage(stageSetup, fmt.Errorf("opening the probe cgroup: %w", err))
			}
			defer f.Close()
			// A bare link, without the fallbacks of link.AttachCgroup: those
			// replace a program or outlive this process.
			l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(f.Fd()), Program: prog, Attach: at})
			if err != nil {
				return atStage(stageCgroup, fmt.Errorf("attaching to a cgroup: %w", err))
			}
			defer l.Close()
			after, err := runIn(dir)
			if err != nil {
				return err
			}
			if !fired(after) {
				return errCgroupNotFired(at)
			}
			return nil
		})
	})
}

// errCgroupNotFired: before 5.15 a socket made while the v1 controllers net_cls
// or net_prio are in use belongs to no v2 cgroup.
func errCgroupNotFired(at ebpf.AttachType) error {
	reason := fmt.Sprintf("a program (%v) attaches to a cgroup but has no effect there", at)
	if list, err := os.ReadFile("/proc/cgroups"); err == nil {
		for _, c := range []string{"net_cls", "net_prio"} {
			if hierarchy(string(list), c) > 0 {
				return noBecause(reason+"; before Linux 5.15 the v1 controller "+c+", which is in use, has that effect",
					"unmount "+c+" and reboot, or Linux 5.15")
			}
		}
	}
	return noBecause(reason, "")
}

// cgroupProgram loads and probes one program.
func (p *Prober) cgroupProgram(spec *ebpf.ProgramSpec, fired func(outcome) bool) error {
	if p.cgroupRoot == "" {
		return errNoCgroup2
	}
	spec.License = "GPL"
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return atStage(stageLoad, err)
	}
	defer prog.Close()
	return p.onCgroup(prog, spec.AttachType, fired)
}

// probeBPFPermission loads one program of each kind. Where the sysctl
// unprivileged_bpf_disabled is 0 anybody may load the first, which proves nothing.
func probeBPFPermission(*Prober) error {
	for _, spec := range []*ebpf.ProgramSpec{
		{Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, Instructions: returning(1)},
		{Type: ebpf.SchedCLS, Instructions: returning(0)},
	} {
		spec.Name, spec.License = "fl_permission", "GPL"
		prog, err := ebpf.NewProgram(spec)
		if err != nil {
			return atStage(stageLoad, err)
		}
		if err := prog.Close(); err != nil {
			return atStage(stageSetup, err)
		}
	}
	return nil
}

func probeRingBuf(*Prober) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return atStage(stageLoad, err)
	}
	return m.Close()
}

func probeAtomicFetch(*Prober) error {
	fetch := asm.FetchAdd.Mem(asm.RFP, asm.R1, asm.DWord, -8)
	// cilium/ebpf 0.22 forgets that it is one that fetches (Instruction.Marshal):
	// BPF_ADD | BPF_FETCH.
	fetch.Constant = 1
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_atomic", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			fetch,
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) && errors.Is(err, unix.EINVAL) {
		return noBecause("the kernel does not know these instructions", "")
	}
	if err != nil {
		return atStage(stageLoad, err)
	}
	return prog.Close()
}

func probeCgroupSKB(p *Prober) error {
	return p.cgroupProgram(&ebpf.ProgramSpec{
		Name: "fl_skb", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, Instructions: returning(0),
	}, func(o outcome) bool { return o.send == unix.EPERM })
}

func probeCgroupConnect(p *Prober) error {
	return p.cgroupProgram(&ebpf.ProgramSpec{
		Name: "fl_connect", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, Instructions: returning(0),
	}, func(o outcome) bool { return o.connect == unix.EPERM })
}

func probeSetRetval(p *Prober) error {
	return p.cgroupProgram(&ebpf.ProgramSpec{
		Name: "fl_retval", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: append(asm.Instructions{
			asm.Mov.Imm(asm.R1, -int32(probeErrno)),
			asm.FnSetRetval.Call(),
		}, returning(0)...),
	}, func(o outcome) bool { return o.connect == probeErrno })
}

// probeLSMCgroup refuses sockets to the probe's own cgroup.
func probeLSMCgroup(p *Prober) error {
	if p.cgroupRoot == "" {
		return errNoCgroup2
	}
	prog, err := p.load(traced{
		typ: ebpf.LSM, at: ebpf.AttachLSMCgroup, target: lsmSocketCreate, insns: returning(0),
	})
	if err != nil {
		return err
	}
	defer prog.Close()
	err = p.onCgroup(prog, ebpf.AttachLSMCgroup, func(o outcome) bool { return o.socket == unix.EPERM })
	var a *answerError
	if errors.As(err, &a) && a.Available == No {
		return errLSMNotActive()
	}
	return err
}

// probeCgroupV2 makes and removes a child.
func probeCgroupV2(p *Prober) error {
	return withCgroup(p.cgroupRoot, func(dir string) error {
		_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
		return atStage(stageSetup, err)
	})
}

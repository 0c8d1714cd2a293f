package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
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

func probeBPFPermission(*Prober) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_cgroup", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: returning(1),
	})
	if err != nil {
		return atStage(stageLoad, err)
	}
	return prog.Close()
}

func probeRingBuf(*Prober) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return atStage(stageLoad, err)
	}
	return m.Close()
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
	prog, err := loadLSMCgroup("bpf_lsm_socket_create", returning(0))
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

// progLoadAttr is union bpf_attr of BPF_PROG_LOAD up to attach_btf_id, bpf(2)
// and include/uapi/linux/bpf.h.
type progLoadAttr struct {
	progType, insnCount   uint32
	insns, license        uint64
	logLevel, logSize     uint32
	logBuf                uint64
	kernVersion, flags    uint32
	name                  [16]byte
	ifindex, expectedType uint32
	progBTF, funcInfoSize uint32
	funcInfo              uint64
	funcInfoCount         uint32
	lineInfoSize          uint32
	lineInfo              uint64
	lineInfoCount         uint32
	attachBTFID           uint32
}

// loadLSMCgroup loads by hand: the library fills in no target for
// BPF_LSM_CGROUP programs (cilium/ebpf 0.22, findProgramTargetInKernel).
func loadLSMCgroup(hook string, insns asm.Instructions) (*ebpf.Program, error) {
	types, err := haveBTF()
	if err != nil {
		return nil, err
	}
	var fn *btf.Func
	if err := types.TypeByName(hook, &fn); err != nil {
		return nil, atStage(stageLoad, fmt.Errorf("looking up %s: %w", hook, err))
	}
	id, err := types.TypeID(fn)
	if err != nil {
		return nil, atStage(stageSetup, fmt.Errorf("looking up %s: %w", hook, err))
	}
	var code bytes.Buffer
	if err := insns.Marshal(&code, byteOrder()); err != nil {
		return nil, fmt.Errorf("assembling the probe: %w", err)
	}
	license := []byte("GPL\x00")
	log := make([]byte, 1<<16)
	attr := progLoadAttr{
		progType: uint32(ebpf.LSM), insnCount: uint32(code.Len() / asm.InstructionSize),
		insns:        uint64(uintptr(unsafe.Pointer(&code.Bytes()[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
		logLevel:     1,
		logSize:      uint32(len(log)),
		logBuf:       uint64(uintptr(unsafe.Pointer(&log[0]))),
		expectedType: uint32(ebpf.AttachLSMCgroup),
		attachBTFID:  uint32(id),
	}
	copy(attr.name[:], "fl_lsm_cgroup")
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(code.Bytes())
	runtime.KeepAlive(license)
	if errno != 0 {
		v := &ebpf.VerifierError{Cause: errno}
		for line := range strings.Lines(unix.ByteSliceToString(log)) {
			v.Log = append(v.Log, strings.TrimSpace(line))
		}
		return nil, atStage(stageLoad, v)
	}
	prog, err := ebpf.NewProgramFromFD(int(fd))
	if err != nil {
		return nil, atStage(stageSetup, fmt.Errorf("opening the loaded probe: %w", err))
	}
	return prog, nil
}

// byteOrder is the machine's, as one of the two that the assembler knows.
func byteOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

// probeCgroupV2 makes and removes a child.
func probeCgroupV2(p *Prober) error {
	return withCgroup(p.cgroupRoot, func(dir string) error {
		_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
		return atStage(stageSetup, err)
	})
}

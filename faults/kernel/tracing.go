package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// probeErrno is what a probe's program answers. No system call used here can
// return it by itself (errno 118, XENIX semaphores).
const probeErrno = unix.ENOTNAM

// The calls that tracing probes act on: rarely made, without effect, and with
// an argument of which most values mean nothing. Kprobes have one of their own:
// on 5.10 a kprobe on a function that has a trampoline at that moment runs, but
// its override is lost (seen once, with all probes together).
const (
	probeCall  = "getpgid"
	kprobeCall = "getsid"
)

// The other functions of the kernel that probes refer to.
const (
	fnSocketCreate  = "security_socket_create"
	lsmSocketCreate = "bpf_lsm_socket_create"
	fnShouldFailBio = "should_fail_bio"
	// fnFentryTest does nothing and is in every kernel with networking.
	fnFentryTest  = "bpf_fentry_test1"
	fnTaskFromPid = "bpf_task_from_pid"
	fnTaskRelease = "bpf_task_release"
	fnTaskWork    = "bpf_task_work_schedule_resume"
)

// Fields that not all kernels have, by which faults of block I/O know whose it is.
const (
	BioDevice       = "bio.bi_bdev"
	CgroupAncestors = "cgroup.ancestors"
)

// syscallTarget returns the function of a probed system call and the place of
// its argument.
func syscallTarget(call string) (fn string, arg0 int16, err error) {
	abi, ok := Syscalls()
	if !ok {
		return "", 0, unknownBecause("the probe does not know the system calls of "+runtime.GOARCH, "")
	}
	return abi.Prefix + call, int16(abi.Arguments[0]), nil
}

// nonce returns a random number above every process id (at most 2^22) that fits
// a positive int, so that no other process calls with it.
func nonce() (int32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("choosing a number for the probe: %w", err)
	}
	return int32(binary.NativeEndian.Uint32(b[:])&0x3fffffff | 0x40000000), nil
}

// getpgid makes the probed call and reports whether the program answered it.
func getpgid(n int32) error {
	_, err := unix.Getpgid(int(n))
	return expectProbeErrno(err)
}

// getsid is getpgid for kprobeCall.
func getsid(n int32) error {
	_, err := unix.Getsid(int(n))
	return expectProbeErrno(err)
}

// socketCreate makes a call that reaches the security hook socket_create with n
// as the protocol. Unix sockets have no protocols: without a program it ends in
// EPROTONOSUPPORT.
func socketCreate(n int32) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, int(n))
	if err == nil {
		unix.Close(fd)
	}
	return expectProbeErrno(err)
}

// errNotFired: attached, but the program did not decide.
var errNotFired = errors.New("the program attached but never ran")

func expectProbeErrno(err error) error {
	if errors.Is(err, probeErrno) {
		return nil
	}
	return errNotFired
}

// answerWhen returns the end of a program: when R7 holds n as an int the result
// is -probeErrno, as a long, because an int would reach the caller of a system
// call as a large positive number; else 0.
func answerWhen(n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.JNE.Imm32(asm.R7, n, "out"),
		asm.Mov.Imm(asm.R0, -int32(probeErrno)),
		asm.Return().WithSymbol("out"),
	}
}

// onSyscallRegs: the context is the system call's arguments, the first of which
// is a pointer to the registers at entry.
func onSyscallRegs(arg0 int16, n int32) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R7, asm.R6, arg0, asm.DWord),
	}, answerWhen(n)...)
}

// onSocketCreate: the context is (family, type, protocol, kern).
func onSocketCreate(n int32) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, 2*8, asm.DWord),
	}, answerWhen(n)...)
}

// attachAndFire loads the program, attaches it, and makes the call.
func (p *Prober) attachAndFire(t traced, fire func() error) error {
	prog, err := p.load(t)
	if err != nil {
		return err
	}
	defer prog.Close()
	var l link.Link
	if t.typ == ebpf.LSM {
		l, err = link.AttachLSM(link.LSMOptions{Program: prog})
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: t.at})
	}
	if err != nil {
		return atStage(stageAttach, fmt.Errorf("attaching to %s: %w", t.target, err))
	}
	defer l.Close()
	if fire == nil {
		return nil
	}
	return fire()
}

// fmodRetSyscall probes fmod_ret on a system call with the given program flags.
func (p *Prober) fmodRetSyscall(flags uint32) error {
	target, arg0, err := syscallTarget(probeCall)
	if err != nil {
		return err
	}
	n, err := nonce()
	if err != nil {
		return err
	}
	err = p.attachAndFire(traced{
		typ: ebpf.Tracing, at: ebpf.AttachModifyReturn, target: target, flags: flags, insns: onSyscallRegs(arg0, n),
	}, func() error { return getpgid(n) })
	if errors.Is(err, errNotFired) {
		return noBecause("a program attaches to "+target+" but does not run when the call is made", "")
	}
	return err
}

func probeFmodRetSyscall(p *Prober) error { return p.fmodRetSyscall(0) }

func probeSleepableFmodRet(p *Prober) error { return p.fmodRetSyscall(unix.BPF_F_SLEEPABLE) }

func probeFmodRetSecurity(p *Prober) error {
	n, err := nonce()
	if err != nil {
		return err
	}
	err = p.attachAndFire(traced{
		typ: ebpf.Tracing, at: ebpf.AttachModifyReturn, target: fnSocketCreate, insns: onSocketCreate(n),
	}, func() error { return socketCreate(n) })
	if errors.Is(err, errNotFired) {
		return noBecause("a program attaches to "+fnSocketCreate+" but does not run", "")
	}
	return err
}

// lsm probes an LSM program with the given program flags.
func (p *Prober) lsm(flags uint32) error {
	n, err := nonce()
	if err != nil {
		return err
	}
	err = p.attachAndFire(traced{
		typ: ebpf.LSM, at: ebpf.AttachLSMMac, target: lsmSocketCreate, flags: flags, insns: onSocketCreate(n),
	}, func() error { return socketCreate(n) })
	if errors.Is(err, errNotFired) {
		return errLSMNotActive()
	}
	return err
}

// errLSMNotActive: the kernel lets BPF LSM programs attach also where nothing
// calls them.
func errLSMNotActive() error {
	list := "not readable: securityfs is not mounted"
	active := lsmList(securityfs)
	if active != "" {
		list = active
	}
	return noBecause("a program attaches but never runs: bpf is not among the active security modules ("+list+")",
		"add bpf to the lsm= list on the kernel command line and reboot")
}

func probeLSM(p *Prober) error { return p.lsm(0) }

func probeSleepableLSM(p *Prober) error { return p.lsm(unix.BPF_F_SLEEPABLE) }

// probeKprobeOverride answers from a kprobe at the system call's entry. Its
// context is the registers of the function, whose first argument points to the
// registers of the caller.
func probeKprobeOverride(*Prober) error {
	target, arg0, err := syscallTarget(kprobeCall)
	if err != nil {
		return err
	}
	n, err := nonce()
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_override", Type: ebpf.Kprobe, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R3, asm.R1, arg0, asm.DWord),
			asm.Add.Imm(asm.R3, int32(arg0)),
			asm.Mov.Imm(asm.R2, 0),
			asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R2, 8),
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, -8),
			asm.FnProbeReadKernel.Call(),
			asm.LoadMem(asm.R7, asm.RFP, -8, asm.DWord),
			asm.JNE.Imm32(asm.R7, n, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, -int32(probeErrno)),
			asm.FnOverrideReturn.Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return atStage(stageLoad, err)
	}
	defer prog.Close()
	l, err := link.Kprobe(target, prog, nil)
	if err != nil {
		if errors.Is(err, unix.ENOENT) && !hasKprobes() {
			return noBecause("the kernel has no kprobes", "a kernel built with CONFIG_KPROBES=y and CONFIG_BPF_KPROBE_OVERRIDE=y")
		}
		return atStage(stageAttach, fmt.Errorf("attaching to %s: %w", target, err))
	}
	defer l.Close()
	if getsid(n) != nil {
		return noBecause("a program attaches to "+target+" but does not change its result", "")
	}
	return nil
}

// probeShouldFailBio attaches a program that changes nothing.
func probeShouldFailBio(p *Prober) (string, error) {
	var offset uint32
	for _, field := range []string{BioDevice, CgroupAncestors} {
		if err := Offsets(map[string]*uint32{field: &offset}); err != nil {
			return "", noBecause(err.Error()+", by which I/O is known to be the target's (Linux 6.1 and later have it)", "")
		}
	}
	err := p.attachAndFire(traced{
		typ: ebpf.Tracing, at: ebpf.AttachModifyReturn, target: fnShouldFailBio, insns: returning(0),
	}, nil)
	return "attaches; whether it fires is tested by the fault itself", err
}

// probeTracingPermission loads a program for a function that does nothing.
func probeTracingPermission(p *Prober) error { return p.loadOnFentryTest(returning(0)) }

// loadOnFentryTest loads a tracing program that is never attached.
func (p *Prober) loadOnFentryTest(insns asm.Instructions) error {
	prog, err := p.load(traced{
		typ: ebpf.Tracing, at: ebpf.AttachTraceFEntry, target: fnFentryTest, insns: insns,
	})
	if err != nil {
		return err
	}
	return prog.Close()
}

// probeTaskFromPid loads a call of the kernel function and of the one that must
// follow it. Verification is the test: what loads can be called.
func probeTaskFromPid(p *Prober) error {
	get, err := p.kfunc(fnTaskFromPid)
	if err != nil {
		return err
	}
	put, err := p.kfunc(fnTaskRelease)
	if err != nil {
		return err
	}
	return p.loadOnFentryTest(asm.Instructions{
		asm.Mov.Imm(asm.R1, 1),
		get,
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R1, asm.R0),
		put,
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	})
}

// probeTaskWork looks whether the kernel has the function. (6.18 has another one, with an
// argument more, on which nothing was run.)
func probeTaskWork(p *Prober) error {
	_, err := p.kfunc(fnTaskWork)
	return err
}

// kfunc is a call by type id of a function of the kernel proper.
func (p *Prober) kfunc(name string) (asm.Instruction, error) {
	id, err := p.types.of(name)
	if err != nil {
		return asm.Instruction{}, err
	}
	return asm.Instruction{
		OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(id),
	}, nil
}

// probeCopyFromUserTask runs a program of the type that user space runs by hand
// (BPF_PROG_TYPE_SYSCALL, 5.14), so that nothing has to be attached: it reads
// one byte of this process through the task pointer.
func probeCopyFromUserTask(*Prober) error {
	const secret = 0x5a
	b := new(byte)
	*b = secret
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_copy", Type: ebpf.Syscall, License: "GPL", Flags: unix.BPF_F_SLEEPABLE,
		Instructions: asm.Instructions{
			asm.FnGetCurrentTaskBtf.Call(),
			asm.Mov.Reg(asm.R4, asm.R0),
			asm.Mov.Imm(asm.R2, 0),
			asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, -8),
			asm.Mov.Imm(asm.R2, 1),
			// The heap does not move objects.
			asm.LoadImm(asm.R3, int64(uintptr(unsafe.Pointer(b))), asm.DWord),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnCopyFromUserTask.Call(),
			asm.JNE.Imm(asm.R0, 0, "failed"),
			asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("failed"),
			asm.Return(),
		},
	})
	var verifier *ebpf.VerifierError
	if errors.Is(err, unix.EINVAL) && (!errors.As(err, &verifier) || len(spoken(verifier.Log)) == 0) {
		return noBecause("the kernel has no programs that user space runs by hand (5.14), nor this helper", "")
	}
	if err != nil {
		return atStage(stageLoad, err)
	}
	defer prog.Close()
	got, err := prog.Run(&ebpf.RunOptions{})
	runtime.KeepAlive(b)
	if err != nil {
		return atStage(stageAttach, err)
	}
	if got != secret {
		return noBecause("the helper loads but reads nothing", "")
	}
	return nil
}

// hasKprobes reports whether perf_event_open(2) knows kprobes, or the older
// interface of tracefs is there.
func hasKprobes() bool {
	for _, path := range []string{
		"/sys/bus/event_source/devices/kprobe/type",
		"/sys/kernel/tracing/kprobe_events",
		"/sys/kernel/debug/tracing/kprobe_events",
	} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

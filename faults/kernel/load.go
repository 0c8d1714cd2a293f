package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// typeIDs finds the type ids of the functions that probes attach to and call.
// Reading the kernel's types takes most of a probe's time and tens of MB, and
// the library reads them anew for each program: here they are read once, all
// names are looked up, and they are let go.
type typeIDs struct {
	mu  sync.Mutex
	ids map[string]btf.TypeID
}

// targets are all functions that probes refer to by type id.
func targets() []string {
	names := []string{
		fnSocketCreate, lsmSocketCreate, fnShouldFailBio, fnFentryTest, fnTaskFromPid, fnTaskRelease, fnTaskWork,
	}
	if fn, _, err := syscallTarget(probeCall); err == nil {
		names = append(names, fn)
	}
	return names
}

// of returns the id of one of the targets. A kernel without types and a function
// that the kernel does not have are conclusive errors.
func (t *typeIDs) of(name string) (btf.TypeID, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ids == nil {
		ids, err := FunctionIDs(targets())
		if err != nil {
			return 0, err
		}
		t.ids = ids
	}
	id, ok := t.ids[name]
	if !ok {
		return 0, noBecause("the kernel has no function "+name+", or it is inlined everywhere", "")
	}
	return id, nil
}

// FunctionIDs returns the type ids of those functions that the kernel describes.
// Where it describes one several times, which happens to functions of one name when
// some type of their arguments was met twice (seen with __x64_sys_socket on 6.12), the
// first counts: the kernel finds the function itself by its name.
func FunctionIDs(names []string) (map[string]btf.TypeID, error) {
	spec, err := kernelTypes()
	if err != nil {
		return nil, err
	}
	ids := map[string]btf.TypeID{}
	for _, name := range names {
		id, err := functionID(spec, name)
		if errors.Is(err, btf.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, atStage(stageSetup, fmt.Errorf("looking up %s: %w", name, err))
		}
		ids[name] = id
	}
	return ids, nil
}

func functionID(spec *btf.Spec, name string) (btf.TypeID, error) {
	types, err := spec.AnyTypesByName(name)
	if err != nil {
		return 0, err
	}
	for _, t := range types {
		if fn, ok := t.(*btf.Func); ok {
			return spec.TypeID(fn)
		}
	}
	return 0, btf.ErrNotFound
}

// kernelTypes reads /sys/kernel/btf/vmlinux.
func kernelTypes() (*btf.Spec, error) {
	spec, err := btf.LoadKernelSpec()
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOENT) {
		return nil, errNoBTF
	}
	if err != nil {
		return nil, atStage(stageSetup, fmt.Errorf("reading the kernel's types: %w", err))
	}
	return spec, nil
}

func probeBTF(*Prober) error {
	_, err := kernelTypes()
	return err
}

// Traced is a program that is loaded for one function of the kernel.
type Traced struct {
	Type   ebpf.ProgramType
	Attach ebpf.AttachType
	// Function is its id in the kernel's types.
	Function btf.TypeID
	// Name is what the kernel shows, at most 15 bytes.
	Name  string
	Flags uint32
	// Instructions have their maps.
	Instructions asm.Instructions
}

// traced is Traced for a probe.
type traced struct {
	typ    ebpf.ProgramType
	at     ebpf.AttachType
	target string // its name in the kernel's types
	flags  uint32
	insns  asm.Instructions
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

// load loads a probe.
func (p *Prober) load(t traced) (*ebpf.Program, error) {
	id, err := p.types.of(t.target)
	if err != nil {
		return nil, err
	}
	return Load(Traced{
		Type: t.typ, Attach: t.at, Function: id, Name: "faultline_probe", Flags: t.flags, Instructions: t.insns,
	})
}

// logSize is room for what the verifier says of a program that it does not take.
const logSize = 1 << 20

// Load loads by hand, because the library takes no type id, refuses functions that
// the kernel describes twice, and knows no target for BPF_LSM_CGROUP (cilium/ebpf
// 0.22, findProgramTargetInKernel). What the kernel says against the program is an
// *ebpf.VerifierError.
func Load(t Traced) (*ebpf.Program, error) {
	instructions, err := callKernel(t.Instructions)
	if err != nil {
		return nil, err
	}
	var code bytes.Buffer
	if err := instructions.Marshal(&code, byteOrder()); err != nil {
		return nil, fmt.Errorf("assembling a program: %w", err)
	}
	license := []byte("GPL\x00")
	attr := progLoadAttr{
		progType:     uint32(t.Type),
		insnCount:    uint32(code.Len() / asm.InstructionSize),
		insns:        uint64(uintptr(unsafe.Pointer(&code.Bytes()[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
		flags:        t.Flags,
		expectedType: uint32(t.Attach),
		attachBTFID:  uint32(t.Function),
	}
	copy(attr.name[:], t.Name)
	types, infos, err := typesOf(instructions)
	if err != nil {
		return nil, err
	}
	if types != nil {
		defer func() { _ = types.Close() }() // the program has them
		attr.progBTF, attr.funcInfo = uint32(types.FD()), uint64(uintptr(unsafe.Pointer(&infos[0])))
		attr.funcInfoSize, attr.funcInfoCount = btf.FuncInfoSize, uint32(len(infos))/btf.FuncInfoSize
	}
	fd, errno := progLoad(&attr)
	var log []byte
	if errno != 0 {
		// Only then: a long log of a good program is an error too (ENOSPC).
		log = make([]byte, logSize)
		attr.logLevel, attr.logSize = 1, logSize
		attr.logBuf = uint64(uintptr(unsafe.Pointer(&log[0])))
		fd, errno = progLoad(&attr)
	}
	runtime.KeepAlive(code.Bytes())
	runtime.KeepAlive(license)
	runtime.KeepAlive(infos)
	runtime.KeepAlive(log)
	if errno != 0 {
		v := &ebpf.VerifierError{Cause: errno}
		for line := range strings.Lines(unix.ByteSliceToString(log)) {
			v.Log = append(v.Log, strings.TrimSpace(line))
		}
		return nil, atStage(stageLoad, v)
	}
	prog, err := ebpf.NewProgramFromFD(fd)
	if err != nil {
		return nil, atStage(stageSetup, fmt.Errorf("opening a program: %w", err))
	}
	return prog, nil
}

// typesOf describes the functions of a program that the kernel calls back; nil for one
// without.
func typesOf(instructions asm.Instructions) (*btf.Handle, []byte, error) {
	if !slices.ContainsFunc(instructions, func(ins asm.Instruction) bool { return ins.IsLoadOfFunctionPointer() }) {
		return nil, nil, nil
	}
	builder, err := btf.NewBuilder(nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("describing a program: %w", err)
	}
	infos, _, err := btf.MarshalExtInfos(instructions, builder)
	if err != nil {
		return nil, nil, fmt.Errorf("describing a program: %w", err)
	}
	types, err := btf.NewHandle(builder)
	if err != nil {
		return nil, nil, fmt.Errorf("loading the types of a program: %w", err)
	}
	return types, infos, nil
}

// callable are the functions of the kernel proper that programs of ours call.
var callable = sync.OnceValues(func() (map[string]btf.TypeID, error) {
	return FunctionIDs([]string{fnTaskFromPid, fnTaskRelease, fnTaskWork})
})

// callKernel writes the ids of the kernel's functions into the calls of them that a
// compiler has left open.
func callKernel(instructions asm.Instructions) (asm.Instructions, error) {
	open := func(ins asm.Instruction) bool { return ins.IsKfuncCall() && ins.Constant < 0 }
	if !slices.ContainsFunc(instructions, open) {
		return instructions, nil
	}
	ids, err := callable()
	if err != nil {
		return nil, err
	}
	instructions = slices.Clone(instructions)
	for i, ins := range instructions {
		if !open(ins) {
			continue
		}
		id, ok := ids[ins.Reference()]
		if !ok {
			return nil, noBecause("the kernel has no function "+ins.Reference()+" that programs may call", "")
		}
		instructions[i].Constant = int64(id)
	}
	return instructions, nil
}

// progLoad is bpf(BPF_PROG_LOAD). The verifier gives up with EAGAIN when a
// signal comes, and Go's scheduler sends signals.
func progLoad(attr *progLoadAttr) (int, unix.Errno) {
	const tries = 30
	for i := 0; ; i++ {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		if errno == unix.EAGAIN && i < tries {
			continue
		}
		return int(fd), errno
	}
}

// byteOrder is the machine's, as one of the two that the assembler knows.
func byteOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
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
		fnSocketCreate, lsmSocketCreate, fnShouldFailBio, fnFentryTest, fnTaskFromPid, fnTaskRelease,
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
		ids, err := readTypeIDs(targets())
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

func readTypeIDs(names []string) (map[string]btf.TypeID, error) {
	spec, err := kernelTypes()
	if err != nil {
		return nil, err
	}
	ids := map[string]btf.TypeID{}
	for _, name := range names {
		var fn *btf.Func
		err := spec.TypeByName(name, &fn)
		if errors.Is(err, btf.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, atStage(stageSetup, fmt.Errorf("looking up %s: %w", name, err))
		}
		if ids[name], err = spec.TypeID(fn); err != nil {
			return nil, atStage(stageSetup, fmt.Errorf("looking up %s: %w", name, err))
		}
	}
	return ids, nil
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

// traced is a program that is loaded for one function of the kernel.
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

// logSize holds the verifier's words about a program of a dozen instructions.
const logSize = 1 << 16

// load loads by hand, because the library takes no type id and knows no target
// for BPF_LSM_CGROUP (cilium/ebpf 0.22, findProgramTargetInKernel).
func (p *Prober) load(t traced) (*ebpf.Program, error) {
	id, err := p.types.of(t.target)
	if err != nil {
		return nil, err
	}
	var code bytes.Buffer
	if err := t.insns.Marshal(&code, byteOrder()); err != nil {
		return nil, fmt.Errorf("assembling the probe: %w", err)
	}
	license := []byte("GPL\x00")
	log := make([]byte, logSize)
	attr := progLoadAttr{
		progType:     uint32(t.typ),
		insnCount:    uint32(code.Len() / asm.InstructionSize),
		insns:        uint64(uintptr(unsafe.Pointer(&code.Bytes()[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
		logLevel:     1,
		logSize:      logSize,
		logBuf:       uint64(uintptr(unsafe.Pointer(&log[0]))),
		flags:        t.flags,
		expectedType: uint32(t.at),
		attachBTFID:  uint32(id),
	}
	copy(attr.name[:], "faultline_probe")
	fd, errno := progLoad(&attr)
	runtime.KeepAlive(code.Bytes())
	runtime.KeepAlive(license)
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
		return nil, atStage(stageSetup, fmt.Errorf("opening the loaded probe: %w", err))
	}
	return prog, nil
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

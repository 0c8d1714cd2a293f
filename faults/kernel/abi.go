package kernel

import (
	"runtime"
	"strings"
)

// ABI is how the kernel calls the functions of system calls: with one argument,
// a pointer to the registers of the caller (struct pt_regs). Offsets are in bytes
// of that.
type ABI struct {
	// Prefix begins the functions' names.
	Prefix string
	// Arguments are the offsets of the six arguments.
	Arguments [6]uint32
	// Number is the offset of the call's number, 4 bytes.
	Number uint32
	// Mode is that of cs, whose two lowest bits are set in registers of a process; 0
	// where other registers say nothing either.
	Mode uint32
	// Parameters are where a function's own first ones are, in its own registers.
	Parameters [4]uint32
	// Prefixes32 and Arguments32 are the same for calls of 32-bit processes.
	Prefixes32  []string
	Arguments32 [6]uint32
	// Compat is the field of a task in which a bit tells that it makes a call of 32
	// bits, as Offsets takes it; CompatBit is which.
	Compat    string
	CompatBit uint32
	// Arch32 is the 32-bit architecture, in Go's words.
	Arch32 string
}

// abis are of the architectures whose system calls take their registers that way
// (CONFIG_ARCH_HAS_SYSCALL_WRAPPER; arch/x86/include/asm/ptrace.h and
// arch/arm64/include/asm/ptrace.h).
var abis = map[string]ABI{
	"amd64": {
		Prefix:     "__x64_sys_",
		Arguments:  [6]uint32{112, 104, 96, 56, 72, 64}, // di, si, dx, r10, r8, r9
		Number:     120,                                 // orig_ax
		Parameters: [4]uint32{112, 104, 96, 88},         // di, si, dx, cx
		Mode:       136,
		Prefixes32: []string{
			"__ia32_compat_sys_", "__ia32_sys_",
		},
		Arguments32: [6]uint32{40, 88, 96, 104, 112, 32}, // bx, cx, dx, si, di, bp
		Compat:      "task_struct.thread_info.status",    // TS_COMPAT
		CompatBit:   1,
		Arch32:      "386",
	},
	"arm64": {
		Prefix:      "__arm64_sys_",
		Arguments:   [6]uint32{0, 8, 16, 24, 32, 40}, // x0 to x5
		Number:      280,                             // syscallno
		Parameters:  [4]uint32{0, 8, 16, 24},
		Prefixes32:  []string{"__arm64_compat_sys_"},
		Arguments32: [6]uint32{0, 8, 16, 24, 32, 40},
		Compat:      "task_struct.thread_info.flags", // TIF_32BIT
		CompatBit:   22,
		Arch32:      "arm",
	},
}

// Syscalls returns the ABI of this machine, false where it is not known.
func Syscalls() (ABI, bool) {
	abi, ok := abis[runtime.GOARCH]
	return abi, ok
}

// Preempts tells whether a task may be preempted while it runs in the kernel. A
// kernel that can be told (PREEMPT_DYNAMIC) counts as one that was.
func Preempts() bool { return strings.Contains(Describe().Version, "PREEMPT") }

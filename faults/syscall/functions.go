package syscall

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"

	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// function is one of the kernel that carries a call out.
type function struct {
	call, name string
	place
	// is32: it does so for 32-bit processes.
	is32 bool
}

// place is where a function was found.
type place struct {
	// id in the kernel's types; 0 where it was found among its symbols.
	id btf.TypeID
	// address among its symbols; 0 where it was found in its types, or is not told
	// (kptr_restrict).
	address uint64
}

// candidates lists the functions that may carry a call out: the first of native that
// is there does, and all of those for 32-bit processes that are.
func candidates(abi kernel.ABI, call string) (native, compat []string) {
	// A call without arguments may be described by this name only, of which both
	// others are aliases.
	native = []string{abi.Prefix + suffix(call), "__do_sys_" + suffix(call)}
	for _, name := range names32(call) {
		for _, prefix := range abi.Prefixes32 {
			if !slices.Contains(compat, prefix+name) {
				compat = append(compat, prefix+name)
			}
		}
	}
	return native, compat
}

// lookup finds functions; those that are not there are left out.
type lookup func(names []string) (map[string]place, error)

// functionsOf finds the functions of calls in the running kernel.
func functionsOf(calls []string, find lookup) (list []function, err error) {
	abi, ok := kernel.Syscalls()
	if !ok {
		return nil, fmt.Errorf("it is %w: the functions of this architecture's system calls are not known", fault.ErrUnavailable)
	}
	var all []string
	for _, call := range calls {
		if !isCall(runtime.GOARCH, call) {
			return nil, fmt.Errorf("%s is no system call of %s", call, runtime.GOARCH)
		}
		native, compat := candidates(abi, call)
		all = append(append(all, native...), compat...)
	}
	places, err := find(all)
	if err != nil {
		return nil, err
	}
	for _, call := range calls {
		native, compat := candidates(abi, call)
		there := func(name string) bool { _, found := places[name]; return found }
		i := slices.IndexFunc(native, there)
		if i < 0 {
			return nil, fmt.Errorf("it is %w: this kernel has no system call %s (no function %s)", fault.ErrUnavailable, call, native[0])
		}
		first := places[native[i]]
		list = append(list, function{call: call, name: native[i], place: first})
		for _, name := range compat {
			alias := first.address != 0 && places[name].address == first.address
			if there(name) && !alias {
				list = append(list, function{call: call, name: name, place: places[name], is32: true})
			}
		}
	}
	return list, nil
}

// Function is one of the kernel that carries a system call out, and that programs of
// a trampoline can stand before.
type Function struct {
	Call, Name string
	// ID in the kernel's types.
	ID btf.TypeID
	// Is32: it does so for 32-bit processes.
	Is32 bool
}

// Functions finds those of calls in the running kernel.
func Functions(calls ...string) ([]Function, error) {
	found, err := functionsOf(calls, inTypes)
	var list []Function
	for _, fn := range found {
		list = append(list, Function{fn.call, fn.name, fn.id, fn.is32})
	}
	return list, err
}

// inTypes looks functions up among the kernel's types.
func inTypes(names []string) (map[string]place, error) {
	ids, err := kernel.FunctionIDs(names)
	found := map[string]place{}
	for name, id := range ids {
		found[name] = place{id: id}
	}
	return found, err
}

// inSymbols looks functions up among the kernel's symbols (proc_kallsyms(5)).
func inSymbols(names []string) (map[string]place, error) {
	file, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's symbols: %w", err)
	}
	defer func() { _ = file.Close() }()
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	found := map[string]place{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// Address, type, name.
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || !wanted[fields[2]] {
			continue
		}
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's symbols: %w", err)
		}
		found[fields[2]] = place{address: address}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the kernel's symbols: %w", err)
	}
	return found, nil
}

// modifying is the hook of a kernel that does not preempt.
func modifying(fn function) []tracing.Hook {
	return []tracing.Hook{fn.hook(syscalls.ObjectsProgFlModify, syscalls.ObjectsProgFlModify32, true)}
}

// delivering are those of one that does.
func delivering(fn function) []tracing.Hook {
	return fn.hook(syscalls.ObjectsProgFlDecide, syscalls.ObjectsProgFlDecide32, false).Delivered()
}

// overriding is the hook of a kprobe that answers itself.
func overriding(fn function) []tracing.Hook {
	return []tracing.Hook{fn.hook(syscalls.ObjectsProgFlOverride, syscalls.ObjectsProgFlOverride32, false)}
}

func (fn function) hook(native, compat string, alone bool) tracing.Hook {
	hook := tracing.Hook{Function: fn.name, ID: fn.id, Program: native, Name: fn.call, Alone: alone, Only32: fn.is32}
	if fn.is32 {
		hook.Program, hook.Spare = compat, tracing.Calls32(fn.name)
	}
	return hook
}

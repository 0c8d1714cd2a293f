package syscall

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/glob"
	"faultline.dev/faultline/faults/kernel"
)

// paths says which arguments of a call are paths, counted from 0.
var paths = map[string][]uint32{
	"access": {0}, "acct": {0}, "chdir": {0}, "chmod": {0}, "chown": {0}, "chroot": {0}, "creat": {0},
	"execve": {0}, "execveat": {1}, "faccessat": {1}, "faccessat2": {1}, "fchmodat": {1}, "fchmodat2": {1},
	"fchownat": {1}, "futimesat": {1}, "getxattr": {0}, "inotify_add_watch": {1}, "lchown": {0}, "lgetxattr": {0},
	"link": {0, 1}, "linkat": {1, 3}, "listxattr": {0}, "llistxattr": {0}, "lremovexattr": {0}, "lsetxattr": {0},
	"lstat": {0}, "mkdir": {0}, "mkdirat": {1}, "mknod": {0}, "mknodat": {1}, "mount": {1, 0},
	"name_to_handle_at": {1}, "newfstatat": {1}, "open": {0}, "open_tree": {1}, "openat": {1}, "openat2": {1},
	"pivot_root": {0, 1}, "readlink": {0}, "readlinkat": {1}, "removexattr": {0}, "rename": {0, 1},
	"renameat": {1, 3}, "renameat2": {1, 3}, "rmdir": {0}, "setxattr": {0}, "stat": {0}, "statfs": {0}, "statx": {1},
	"swapoff": {0}, "swapon": {0}, "symlink": {1}, "symlinkat": {2}, "truncate": {0}, "umount2": {0}, "unlink": {0},
	"unlinkat": {1}, "utime": {0}, "utimensat": {1}, "utimes": {0},
}

// CallsWithPaths are the calls that are given paths, by name, and which of their arguments
// are paths, counted from 0.
func CallsWithPaths() map[string][]uint32 {
	all := map[string][]uint32{}
	for call, arguments := range paths {
		all[call] = slices.Clone(arguments)
	}
	return all
}

// argumentBits is ARGUMENT_BITS of bpf/syscalls/path.h.
const argumentBits = 4

// pathArguments are the paths of a call as the programs want them: from the lowest bits
// on, counted from 1.
func pathArguments(call string) (packed uint8) {
	for i, argument := range paths[call] {
		packed |= uint8(argument+1) << (argumentBits * i)
	}
	return packed
}

// pathWarning is said of every path.
const pathWarning = "path is compared with what the program writes: a relative path, or one by a symbolic link, is another text; fileError compares files"

// pathConfig is struct fl_path_config.
type pathConfig struct {
	Offset [2][maxArgument + 1]uint32
	Used   uint32
	_      uint32
}

// pathConfig is what the programs are told of where paths are.
func (p *callPlan) pathConfig() pathConfig {
	abi, _ := kernel.Syscalls() // the calls were found
	config := pathConfig{Offset: [2][maxArgument + 1]uint32{abi.Arguments, abi.Arguments32}}
	if p.calls.GetPath() != "" {
		config.Used = 1
	}
	return config
}

// keepPath tells the programs the pattern.
func (p *callPlan) keepPath(maps map[string]*ebpf.Map) error {
	if p.calls.GetPath() == "" {
		return nil
	}
	text, err := glob.NewText(p.calls.GetPath())
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if err := maps[syscalls.ObjectsMapFlText].Put(uint32(0), text); err != nil {
		return fmt.Errorf("writing the path: %w", err)
	}
	return nil
}

// validatePath reports a wrong pattern, and calls that are given no path.
func validatePath(p *check.Problems, pattern string, calls []string) {
	if pattern == "" {
		return
	}
	p.Pattern("path", pattern)
	if _, err := glob.NewText(pattern); err != nil {
		p.Add("path", "%s", err)
	}
	for i, call := range calls {
		if _, known := slices.BinarySearch(names, call); known && paths[call] == nil {
			p.Add(fmt.Sprintf("calls[%d]", i), "%s is given no path; leave path out, or use fileError, which knows the files behind descriptors", call)
		}
	}
}

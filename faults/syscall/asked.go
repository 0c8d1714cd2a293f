package syscall

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/bpf/syscalls"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/tracing"
)

// isAsked tells the mechanisms that answer when the kernel asks its security modules from
// those at the entry of a call.
func isAsked(mechanism string) bool {
	return mechanism == mechanismLSM || mechanism == mechanismAsked || mechanism == tracing.MechanismSleepableLSM
}

// askedWarning is said of these.
const askedWarning = "the calls are met where the kernel asks its security modules, and not at their entry: those that fail before, as with a descriptor or a path that is not there, are not hit and not counted, and openat with O_CREAT leaves an empty file; calls of 32-bit processes are not hit"

// ofCall is the shape of bpf/syscalls.
const ofCall tracing.Shape = "asked"

// asked is a hook, and the calls that ask it once, whatever they do.
type asked struct {
	hook string
	// newer says what asks there, where it is not in all kernels that have the calls; an
	// older one of the list serves them too.
	newer string
	calls []string
}

// askings are the hooks of the security modules by which calls can be met
// (linux/lsm_hook_defs.h). There is none for close, fsync, lseek, poll, munmap, nanosleep
// and others, which do what they do unasked.
var askings = []asked{
	{hook: "file_open", calls: []string{"open", "creat", "openat", "openat2"}},
	{hook: "file_permission", calls: []string{
		"read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2", "getdents", "getdents64", "fallocate",
	}},
	{hook: "inode_getattr", calls: []string{"stat", "lstat", "fstat", "newfstatat", "statx"}},
	{hook: "sb_statfs", calls: []string{"statfs", "fstatfs"}},
	{hook: "inode_mkdir", calls: []string{"mkdir", "mkdirat"}},
	{hook: "inode_rmdir", calls: []string{"rmdir", "unlinkat"}},
	{hook: "inode_unlink", calls: []string{"unlink", "unlinkat"}},
	{hook: "inode_rename", calls: []string{"rename", "renameat", "renameat2"}},
	{hook: "inode_link", calls: []string{"link", "linkat"}},
	{hook: "inode_symlink", calls: []string{"symlink", "symlinkat"}},
	{hook: "inode_readlink", calls: []string{"readlink", "readlinkat"}},
	{hook: "path_chmod", calls: []string{"chmod", "fchmod", "fchmodat", "fchmodat2"}},
	{hook: "path_chown", calls: []string{"chown", "fchown", "lchown", "fchownat"}},
	{hook: "path_truncate", calls: []string{"truncate", "ftruncate"}},
	{hook: "file_truncate", calls: []string{"ftruncate"}, newer: "ftruncate"},
	{hook: "path_chroot", calls: []string{"chroot"}},
	{hook: "file_ioctl", calls: []string{"ioctl"}},
	{hook: "file_fcntl", calls: []string{"fcntl"}},
	{hook: "file_lock", calls: []string{"flock"}},
	{hook: "mmap_file", calls: []string{"mmap"}},
	{hook: "socket_create", calls: []string{"socket"}},
	{hook: "socket_bind", calls: []string{"bind"}},
	{hook: "socket_connect", calls: []string{"connect"}},
	{hook: "socket_listen", calls: []string{"listen"}},
	{hook: "socket_accept", calls: []string{"accept", "accept4"}},
	{hook: "socket_sendmsg", calls: []string{"sendto", "sendmsg"}},
	{hook: "socket_recvmsg", calls: []string{"recvfrom", "recvmsg"}},
	{hook: "socket_getsockopt", calls: []string{"getsockopt"}},
	{hook: "socket_setsockopt", calls: []string{"setsockopt"}},
	{hook: "socket_shutdown", calls: []string{"shutdown"}},
	{hook: "socket_getsockname", calls: []string{"getsockname"}},
	{hook: "socket_getpeername", calls: []string{"getpeername"}},
	{hook: "task_setpgid", calls: []string{"setpgid"}},
	{hook: "task_setnice", calls: []string{"setpriority"}},
	{hook: "task_getscheduler", calls: []string{"sched_getscheduler", "sched_getparam", "sched_getaffinity"}},
	{hook: "task_prctl", calls: []string{"prctl"}},
	{hook: "task_alloc", calls: []string{"fork", "vfork", "clone", "clone3"}},
	{hook: "bprm_creds_for_exec", calls: []string{"execve", "execveat"}},
}

// asked are the hooks of the calls, for a kind of fault and one of these mechanisms.
func (p *callPlan) asked(kind, mechanism string) (wanted []tracing.SecurityHook, err error) {
	for _, call := range p.calls.GetCalls() {
		if !isCall(runtime.GOARCH, call) {
			return nil, fmt.Errorf("%s is no system call of %s", call, runtime.GOARCH)
		}
		if !slices.ContainsFunc(askings, func(a asked) bool { return slices.Contains(a.calls, call) }) {
			return nil, fmt.Errorf("%s is %w: %s: the kernel asks no security module about %s (the other mechanisms need a kernel built with CONFIG_FUNCTION_ERROR_INJECTION=y, or one as new as Linux 7.3)",
				kind, fault.ErrUnavailable, mechanism, call)
		}
	}
	for i, a := range askings {
		if calls := p.named(a.calls); len(calls) > 0 {
			wanted = append(wanted, tracing.SecurityHook{
				Name: a.hook, Shape: ofCall, Operation: uint32(i), What: strings.Join(calls, ", "), Newer: a.newer,
			})
		}
	}
	return wanted, nil
}

// asking is struct fl_asking.
type asking struct{ Hook, Number uint32 }

// keepAskings tells the programs at the hooks which calls are meant; others don't ask.
func (p *callPlan) keepAskings(maps map[string]*ebpf.Map) error {
	for i, a := range askings {
		for _, call := range p.named(a.calls) {
			number, _ := Number(call)
			if err := maps[syscalls.ObjectsMapFlAskings].Put(asking{uint32(i), number}, pathArguments(call)); err != nil {
				return fmt.Errorf("writing a call: %w", err)
			}
		}
	}
	return nil
}

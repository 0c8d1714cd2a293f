package syscall

import (
	"fmt"
	"slices"
	"strings"

	"faultline.dev/faultline/faults/tracing"
)

// vital are calls without which few programs go on: the loader, the allocator and
// the threads of C libraries and language runtimes make them, and give up when one
// fails.
var vital = []string{
	"arch_prctl", "brk", "clone", "clone3", "execve", "execveat", "mmap", "mprotect", "mremap", "munmap",
	"rseq", "rt_sigaction", "rt_sigprocmask", "set_robust_list", "set_tid_address", "sigaltstack",
}

// inUserSpace are calls that C libraries and language runtimes answer themselves,
// with what the kernel has put into the process (vdso(7)).
var inUserSpace = []string{"clock_getres", "clock_gettime", "getcpu", "gettimeofday", "time"}

// instead are calls that programs of today seldom make, and what they call instead.
var instead = map[string]string{
	"creat": "openat", "fork": "clone", "open": "openat", "stat": "newfstatat", "lstat": "newfstatat",
}

// byRing are calls that have their like in io_uring (io_uring_enter(2)).
var byRing = []string{
	"accept", "accept4", "bind", "close", "connect", "epoll_ctl", "epoll_wait", "fadvise64", "fallocate", "fsetxattr", "fsync",
	"ftruncate", "linkat", "listen", "madvise", "mkdirat", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64",
	"pwritev", "pwritev2", "read", "readv", "recvfrom", "recvmsg", "renameat", "renameat2", "sendmsg", "sendto", "setxattr",
	"shutdown", "socket", "splice", "statx", "symlinkat", "sync_file_range", "tee", "unlinkat", "waitid", "write", "writev",
}

// warnings say what else may happen, and what may not.
func (p *callPlan) warnings() (list []string, err error) {
	if unseen := p.named(inUserSpace); len(unseen) > 0 {
		list = append(list, fmt.Sprintf("programs seldom ask the kernel for %s: its vDSO answers in user space", strings.Join(unseen, ", ")))
	}
	for _, call := range p.calls.GetCalls() {
		if other := instead[call]; other != "" && !slices.Contains(p.calls.GetCalls(), other) {
			list = append(list, fmt.Sprintf("programs of today seldom call %s: C libraries call %s instead", call, other))
		}
	}
	ringed := p.named(byRing)
	if len(ringed) == 0 {
		return list, nil
	}
	users, err := tracing.RingUsers(p.req.Cgroups)
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		list = append(list, fmt.Sprintf("process %s has an io_uring: what it asks for there in the place of %s is not hit", strings.Join(users, ", "), strings.Join(ringed, ", ")))
	}
	return list, nil
}

// named returns those of the fault's calls that are on a list.
func (p *callPlan) named(list []string) (found []string) {
	for _, call := range p.calls.GetCalls() {
		if slices.Contains(list, call) {
			found = append(found, call)
		}
	}
	return found
}

package syscall

import (
	"fmt"
	"runtime"
)

func isCall(arch, call string) bool {
	for _, name := range numbers[arch] {
		if name == call {
			return true
		}
	}
	return false
}

// Number is that of a call of this machine's own architecture, by its name.
func Number(call string) (uint32, bool) {
	for number, name := range numbers[runtime.GOARCH] {
		if name == call {
			return number, true
		}
	}
	return 0, false
}

// Name is the name of a call in the table of an architecture, in Go's words; of an
// unknown one "call 999".
func Name(arch string, number uint32) string {
	// x32 processes set a bit (__X32_SYSCALL_BIT).
	const x32 = 1 << 30
	if name := numbers[arch][number&^x32]; name != "" {
		return name
	}
	return fmt.Sprintf("call %d", number)
}

// suffix is the end of the name of a call's function.
func suffix(call string) string {
	if other := suffixes[runtime.GOARCH][call]; other != "" {
		return other
	}
	return call
}

// suffixes are those of the functions that have another name than their call
// (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
var suffixes = map[string]map[string]string{
	"amd64": {
		"stat": "newstat", "fstat": "newfstat", "lstat": "newlstat", "uname": "newuname",
		"umount2": "umount", "sendfile": "sendfile64",
	},
	"arm64": {
		"fstat": "newfstat", "fstatat": "newfstatat", "uname": "newuname", "umount2": "umount",
		"sendfile": "sendfile64", "fadvise64": "fadvise64_64",
	},
}

// names32 lists the names, without prefix, of the functions that carry a call out
// for 32-bit processes.
func names32(call string) []string {
	return append([]string{suffix(call)}, others32[call]...)
}

// others32 are those that 32-bit processes get to by calls which do the same under
// other names (arch/x86/entry/syscalls/syscall_32.tbl).
var others32 = map[string][]string{
	"adjtimex":              {"adjtimex_time32"},
	"clock_adjtime":         {"clock_adjtime32"},
	"clock_getres":          {"clock_getres_time32"},
	"clock_gettime":         {"clock_gettime32"},
	"clock_nanosleep":       {"clock_nanosleep_time32"},
	"clock_settime":         {"clock_settime32"},
	"clone":                 {"ia32_clone"},
	"fadvise64":             {"ia32_fadvise64", "ia32_fadvise64_64"},
	"fallocate":             {"ia32_fallocate"},
	"fcntl":                 {"fcntl64"},
	"fstat":                 {"ia32_fstat64", "fstat64", "fstat"},
	"fstatfs":               {"fstatfs64"},
	"ftruncate":             {"ia32_ftruncate64"},
	"futex":                 {"futex_time32"},
	"futimesat":             {"futimesat_time32"},
	"getrlimit":             {"old_getrlimit"},
	"io_getevents":          {"io_getevents_time32"},
	"io_pgetevents":         {"io_pgetevents_time32", "io_pgetevents_time64"},
	"lseek":                 {"llseek"},
	"lstat":                 {"ia32_lstat64", "lstat64", "lstat"},
	"mmap":                  {"ia32_mmap", "mmap_pgoff"},
	"mq_timedreceive":       {"mq_timedreceive_time32"},
	"mq_timedsend":          {"mq_timedsend_time32"},
	"nanosleep":             {"nanosleep_time32"},
	"newfstatat":            {"ia32_fstatat64", "fstatat64"},
	"ppoll":                 {"ppoll_time32", "ppoll_time64"},
	"pread64":               {"ia32_pread64"},
	"pselect6":              {"pselect6_time32", "pselect6_time64"},
	"pwrite64":              {"ia32_pwrite64"},
	"readahead":             {"ia32_readahead"},
	"recvmmsg":              {"recvmmsg_time32", "recvmmsg_time64"},
	"rt_sigtimedwait":       {"rt_sigtimedwait_time32", "rt_sigtimedwait_time64"},
	"sched_rr_get_interval": {"sched_rr_get_interval_time32"},
	"select":                {"old_select"},
	"semtimedop":            {"semtimedop_time32"},
	"sendfile":              {"sendfile"},
	"stat":                  {"ia32_stat64", "stat64", "stat"},
	"statfs":                {"statfs64"},
	"time":                  {"time32"},
	"timer_gettime":         {"timer_gettime32"},
	"timer_settime":         {"timer_settime32"},
	"timerfd_gettime":       {"timerfd_gettime32"},
	"timerfd_settime":       {"timerfd_settime32"},
	"truncate":              {"ia32_truncate64"},
	"umount2":               {"oldumount"},
	"utime":                 {"utime32"},
	"utimensat":             {"utimensat_time32"},
	"utimes":                {"utimes_time32"},
	"wait4":                 {"waitpid"},
}

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// securityfs is where the security modules show themselves.
const securityfs = "/sys/kernel/security"

// Description is what a person wants to know about a kernel beside what it can
// do. It decides nothing.
type Description struct {
	Release string `json:"release"` // uname -r
	Version string `json:"version"` // uname -v
	Machine string `json:"machine"` // uname -m
	BTF     bool   `json:"btf"`     // /sys/kernel/btf/vmlinux exists
	// LSMs are the active security modules in order; empty also where
	// securityfs is not mounted.
	LSMs []string `json:"lsms,omitempty"`
	// Lockdown is none, integrity, confidentiality, or unknown.
	Lockdown string `json:"lockdown"`
	// Cgroup2 is the mount point of cgroup v2, "" for none.
	Cgroup2 string `json:"cgroup2,omitempty"`
	// Controllers are those of the v2 hierarchy.
	Controllers []string `json:"controllers,omitempty"`
	// JIT is off, on, on with debugging, or unknown (net.core.bpf_jit_enable).
	JIT string `json:"jit"`
	// Capabilities are the effective ones of this process that matter here.
	Capabilities []string `json:"capabilities,omitempty"`
	// InitialUserNamespace: capabilities in another one are worth nothing for BPF.
	InitialUserNamespace bool `json:"initialUserNamespace"`
}

// Describe reads it from /proc and /sys. What can't be read is left empty or
// "unknown".
func Describe() Description {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		u = unix.Utsname{}
	}
	d := Description{
		Release:              unix.ByteSliceToString(u.Release[:]),
		Version:              unix.ByteSliceToString(u.Version[:]),
		Machine:              unix.ByteSliceToString(u.Machine[:]),
		Lockdown:             "unknown",
		JIT:                  "unknown",
		Capabilities:         effective(),
		InitialUserNamespace: initialUserNamespace(),
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	d.BTF = err == nil
	if list := lsmList(securityfs); list != "" {
		d.LSMs = strings.Split(list, ",")
	}
	if mode := lockdownMode(securityfs); mode != "" {
		d.Lockdown = mode
	} else if len(d.LSMs) > 0 && !slices.Contains(d.LSMs, "lockdown") {
		d.Lockdown = "none"
	}
	if root, err := Cgroup2Mount(); err == nil {
		d.Cgroup2 = root
		if list, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
			d.Controllers = strings.Fields(string(list))
		}
	}
	if b, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable"); err == nil {
		switch strings.TrimSpace(string(b)) {
		case "0":
			d.JIT = "off"
		case "1":
			d.JIT = "on"
		case "2":
			d.JIT = "on with debugging"
		}
	}
	return d
}

// lsmList returns the active security modules, separated by commas, "" when
// securityfs is not mounted.
func lsmList(securityfs string) string {
	b, err := os.ReadFile(filepath.Join(securityfs, "lsm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// lockdownMode returns the mode in brackets, kernel_lockdown(7), "" when not
// known.
func lockdownMode(securityfs string) string {
	b, err := os.ReadFile(filepath.Join(securityfs, "lockdown"))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(b), "[")
	if !ok {
		return ""
	}
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// capNames are the capabilities that loading and attaching ask for.
var capNames = []struct {
	bit  int
	name string
}{
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_KILL, "CAP_KILL"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_SYS_MODULE, "CAP_SYS_MODULE"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"},
	{unix.CAP_PERFMON, "CAP_PERFMON"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// effective lists the effective capabilities of this thread, capget(2).
func effective() []string {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil
	}
	var names []string
	for _, c := range capNames {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) != 0 {
			names = append(names, c.name)
		}
	}
	return names
}

// initialUserNamespace reports whether every user id maps to itself, which is
// so in the initial namespace, user_namespaces(7).
func initialUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return true
	}
	return slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// currentCaller says what this process may expect. CAP_SYS_ADMIN covers
// everything that probes do; without it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN
// cover the programs, but not the network namespace.
func currentCaller() caller {
	c := caller{lockdown: lockdownMode(securityfs)}
	have := effective()
	var missing []string
	for _, name := range []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"} {
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		c.missing = strings.Join(missing, " and ")
	case !initialUserNamespace():
		c.missing = "the initial user namespace"
	default:
		c.privileged = true
	}
	return c
}

// String is one line for a table's head.
func (d Description) String() string {
	return fmt.Sprintf("Linux %s %s", d.Release, d.Machine)
}

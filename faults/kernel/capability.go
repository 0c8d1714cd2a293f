package kernel

// Capability names one thing that the kernel may let faultline do.
type Capability string

// What can be asked for. The comments say what a yes means.
const (
	// CgroupV2: a cgroup v2 hierarchy is mounted and children can be made in it.
	CgroupV2 Capability = "cgroup-v2"
	// BPFPermission: this process may load networking and cgroup programs.
	BPFPermission Capability = "bpf-permission"
	// TracingPermission: this process may load tracing programs, that is, they
	// are not forbidden by lockdown or another policy of the kernel.
	TracingPermission Capability = "tracing-permission"
	// BTF: the kernel describes its own types.
	BTF Capability = "btf"
	// RingBuf: events can be passed through BPF_MAP_TYPE_RINGBUF.
	RingBuf Capability = "ring-buffer"
	// AtomicFetch: programs have atomic operations that return what was before.
	AtomicFetch Capability = "atomic-fetch"
	// BPFFS: a map is kept by a name in /sys/fs/bpf.
	BPFFS Capability = "bpffs"

	// CgroupSKB: a cgroup_skb link on a cgroup drops a packet sent from it.
	CgroupSKB Capability = "cgroup-skb"
	// TCX: a tcx link on an interface sees a packet.
	TCX Capability = "tcx"
	// ClsBPF: a cls_bpf filter on a clsact qdisc sees a packet.
	ClsBPF Capability = "cls-bpf"
	// FQ, Prio, Netem, TBF: the qdisc can be put on an interface (its module
	// loads).
	FQ    Capability = "fq"
	Prio  Capability = "prio"
	Netem Capability = "netem"
	TBF   Capability = "tbf"
	// IFB: an ifb interface can be made, and packets be led to it.
	IFB Capability = "ifb"

	// CgroupConnect: a cgroup/connect4 link makes connect fail with EPERM.
	CgroupConnect Capability = "cgroup-connect"
	// SetRetval: such a program chooses the errno with bpf_set_retval.
	SetRetval Capability = "set-retval"
	// LSMCgroup: an LSM program on one cgroup makes a call of it fail.
	LSMCgroup Capability = "lsm-cgroup"

	// FmodRetSyscall: fmod_ret on a system call replaces its result.
	FmodRetSyscall Capability = "fmod-ret-syscall"
	// KprobeOverride: a kprobe on a system call replaces its result.
	KprobeOverride Capability = "kprobe-override"
	// FmodRetSecurity: fmod_ret on a security_* function replaces its result.
	FmodRetSecurity Capability = "fmod-ret-security"
	// LSM: a BPF LSM program runs and its verdict counts.
	LSM Capability = "lsm"
	// ShouldFailBio: fmod_ret attaches to should_fail_bio. Whether it fires there
	// is not probed; it may not on kernels built with clang.
	ShouldFailBio Capability = "should-fail-bio"

	// SleepableFmodRet: a sleepable fmod_ret program on a system call runs.
	SleepableFmodRet Capability = "sleepable-fmod-ret"
	// SleepableLSM: a sleepable LSM program on socket_create runs. From 5.11 that
	// hook is one of many that may sleep; 5.10 has only bprm_committed_creds.
	SleepableLSM Capability = "sleepable-lsm"
	// CopyFromUserTask: bpf_copy_from_user_task reads this process's memory.
	CopyFromUserTask Capability = "copy-from-user-task"
	// TaskFromPidKfunc: a tracing program that calls bpf_task_from_pid loads.
	TaskFromPidKfunc Capability = "task-from-pid"
	// TaskWork: there is bpf_task_work_schedule_resume, which lets a program sleep when
	// its task returns to user space.
	TaskWork Capability = "task-work"
	// FUSE: /dev/fuse opens and the file system is known.
	FUSE Capability = "fuse"
	// Fanotify: a permission event holds an open until it is answered.
	Fanotify Capability = "fanotify"

	// CPUController, MemoryController, IOController, PidsController: the
	// controller is on the cgroup v2 hierarchy. Where it is already enabled for
	// children, its limit file exists in a child too.
	CPUController    Capability = "cpu-controller"
	MemoryController Capability = "memory-controller"
	IOController     Capability = "io-controller"
	PidsController   Capability = "pids-controller"
	// CgroupFreeze: cgroup.freeze takes and reports a frozen cgroup.
	CgroupFreeze Capability = "cgroup-freeze"
	// CgroupKill: cgroup.kill can be written.
	CgroupKill Capability = "cgroup-kill"
)

// capabilitySpec is one line of the catalogue.
type capabilitySpec struct {
	name   Capability
	title  string
	remedy string // what would make a plain no a yes
	// probe returns nil when the capability is there, with a note about what it
	// did not see.
	probe func(*Prober) (note string, err error)
}

// plain adapts a probe without a note.
func plain(fn func(*Prober) error) func(*Prober) (string, error) {
	return func(p *Prober) (string, error) { return "", fn(p) }
}

// catalogue is every capability, in the order of a table. It is never changed.
var catalogue = []capabilitySpec{
	{CgroupV2, "cgroup v2 hierarchy", "mount cgroup2, for instance on /sys/fs/cgroup/unified", plain(probeCgroupV2)},
	{BPFPermission, "networking and cgroup BPF programs may be loaded", "Linux 4.10 with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y", plain(probeBPFPermission)},
	{TracingPermission, "tracing BPF programs may be loaded", "Linux 5.5 with CONFIG_BPF_EVENTS=y and CONFIG_DEBUG_INFO_BTF=y", plain(probeTracingPermission)},
	{BTF, "the kernel's own type information", "a kernel built with CONFIG_DEBUG_INFO_BTF=y", plain(probeBTF)},
	{RingBuf, "BPF ring buffer", "Linux 5.8", plain(probeRingBuf)},
	{AtomicFetch, "BPF atomic operations that return the value before", "Linux 5.12", plain(probeAtomicFetch)},
	{BPFFS, "pinning in a BPF file system", "mount -t bpf bpf /sys/fs/bpf", plain(probeBPFFS)},

	{CgroupSKB, "dropping packets of one cgroup (cgroup_skb link)", "Linux 5.7 with CONFIG_CGROUP_BPF=y", plain(probeCgroupSKB)},
	{TCX, "programs on an interface by tcx link", "Linux 6.6 with CONFIG_NET_XGRESS=y", plain(probeTCX)},
	{ClsBPF, "programs on an interface by cls_bpf filter", "kernel modules cls_bpf and sch_ingress", plain(probeClsBPF)},
	{FQ, "qdisc fq (holds packets until their departure time)", "kernel module sch_fq", plain(probeFQ)},
	{Prio, "qdisc prio", "kernel module sch_prio", plain(probePrio)},
	{Netem, "qdisc netem", "kernel module sch_netem (RHEL: package kernel-modules-extra; Ubuntu cloud images: linux-modules-extra)", plain(probeNetem)},
	{TBF, "qdisc tbf", "kernel module sch_tbf", plain(probeTBF)},
	{IFB, "ifb interfaces, and packets that are led there", "kernel modules ifb (RHEL: package kernel-modules-extra) and act_mirred", plain(probeIFB)},

	{CgroupConnect, "failing connect of one cgroup (cgroup/connect4 link)", "Linux 5.7 with CONFIG_CGROUP_BPF=y", plain(probeCgroupConnect)},
	{SetRetval, "choosing the errno in cgroup socket hooks (bpf_set_retval)", "Linux 5.18", plain(probeSetRetval)},
	{LSMCgroup, "LSM programs on one cgroup", "Linux 6.0 with CONFIG_BPF_LSM=y and bpf in the lsm= list", plain(probeLSMCgroup)},

	{FmodRetSyscall, "replacing results of system calls (fmod_ret)", "a kernel built with CONFIG_FUNCTION_ERROR_INJECTION=y, or one as new as Linux 7.3", plain(probeFmodRetSyscall)},
	{KprobeOverride, "replacing results of system calls (kprobe)", "a kernel built with CONFIG_BPF_KPROBE_OVERRIDE=y", plain(probeKprobeOverride)},
	{FmodRetSecurity, "replacing verdicts of security_* functions (fmod_ret)", "Linux 5.7 (arm64: 6.4) with CONFIG_SECURITY_NETWORK=y", plain(probeFmodRetSecurity)},
	{LSM, "BPF LSM programs that run", "Linux 5.7 with CONFIG_BPF_LSM=y and bpf in the lsm= list", plain(probeLSM)},
	{ShouldFailBio, "failing block I/O (should_fail_bio)", "a kernel built with CONFIG_FUNCTION_ERROR_INJECTION=y", probeShouldFailBio},

	{SleepableFmodRet, "sleepable programs on system calls (fmod_ret.s)", "Linux 5.10 built with CONFIG_FUNCTION_ERROR_INJECTION=y, or one as new as Linux 7.3", plain(probeSleepableFmodRet)},
	{SleepableLSM, "sleepable LSM programs that run", "Linux 5.11 with CONFIG_BPF_LSM=y and bpf in the lsm= list", plain(probeSleepableLSM)},
	{CopyFromUserTask, "reading another task's memory from a program (bpf_copy_from_user_task)", "Linux 5.18", plain(probeCopyFromUserTask)},
	{TaskFromPidKfunc, "finding a task by its pid from a program (bpf_task_from_pid)", "Linux 6.2", plain(probeTaskFromPid)},
	{TaskWork, "programs that run when a task returns (bpf_task_work_schedule_resume)", "Linux 7.0", plain(probeTaskWork)},
	{FUSE, "FUSE file systems", "kernel module fuse", plain(probeFUSE)},
	{Fanotify, "fanotify permission events", "a kernel built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y", plain(probeFanotify)},

	{CPUController, "cgroup cpu controller", "boot with cgroup v2 alone and CONFIG_CFS_BANDWIDTH=y", controllerProbe("cpu", "cpu.max")},
	{MemoryController, "cgroup memory controller", "boot with cgroup v2 alone and CONFIG_MEMCG=y", controllerProbe("memory", "memory.max")},
	{IOController, "cgroup io controller", "boot with cgroup v2 alone and CONFIG_BLK_DEV_THROTTLING=y", controllerProbe("io", "io.max")},
	{PidsController, "cgroup pids controller", "boot with cgroup v2 alone and CONFIG_CGROUP_PIDS=y", controllerProbe("pids", "pids.max")},
	{CgroupFreeze, "freezing a cgroup", "Linux 5.2", plain(probeCgroupFreeze)},
	{CgroupKill, "killing a whole cgroup at once", "Linux 5.14", plain(probeCgroupKill)},
}

// find returns a catalogue's line.
func find(list []capabilitySpec, c Capability) (capabilitySpec, bool) {
	for _, e := range list {
		if e.name == c {
			return e, true
		}
	}
	return capabilitySpec{}, false
}

// Title describes a capability in one line without a full stop, "" for one that
// does not exist.
func Title(c Capability) string {
	e, _ := find(catalogue, c)
	return e.title
}

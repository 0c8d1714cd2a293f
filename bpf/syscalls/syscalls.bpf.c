//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs at the function of a system call that answer in its place. Go loads one
 * for each function.
 *
 * The kernel does not call the function when a program of its trampoline returns
 * something else than 0 (fmod_ret). But it does not run such a program while another
 * task is preempted in it on the same CPU, and calls the function: on kernels that
 * preempt, a busy target would miss a good part of its faults, and nobody could tell
 * which. There a kprobe decides, which runs before the trampoline and is never
 * preempted, and leaves a verdict for the task; several copies of a program deliver
 * it, one of which is free.
 */
#include "call.h"

char LICENSE[] SEC("license") = "GPL";

/*
 * They return a long: the process would take an int, which the kernel does not
 * extend, for a large positive number, and not for an error.
 */
static __always_inline long modify(const __u64 *arguments, enum fl_entry entry)
{
	__u64 now, start = concerned(&fl_call_config.failure, &now);
	long result;

	if (!start)
		return 0;
	result = decide((const void *)arguments[0], entry, start, now);
	if (result)
		count(hit);
	return result;
}

SEC("fmod_ret/native")
long fl_modify(const __u64 *arguments)
{
	return modify(arguments, ENTRY_NATIVE);
}

SEC("fmod_ret/compat")
long fl_modify_32(const __u64 *arguments)
{
	return modify(arguments, ENTRY_32);
}

/* What threads' calls are to return, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __s64);
} fl_verdicts SEC(".maps");

static __always_inline long decide_at(struct pt_regs *context, enum fl_entry entry,
				      __u64 start, __u64 now)
{
	const void *registers;

	if (bpf_probe_read_kernel(&registers, sizeof(registers),
				  (void *)context + fl_call_config.first_offset))
		return 0;
	return decide(registers, entry, start, now);
}

static __always_inline int leave_verdict(struct pt_regs *context, enum fl_entry entry)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();
	__u64 now, start = concerned(&fl_call_config.failure, &now);
	__s64 result;

	if (!start)
		return 0;
	/* Of a call before, that none was free to deliver. */
	bpf_map_delete_elem(&fl_verdicts, &thread);
	result = decide_at(context, entry, start, now);
	if (result)
		bpf_map_update_elem(&fl_verdicts, &thread, &result, BPF_ANY);
	return 0;
}

SEC("kprobe/native")
int fl_decide(struct pt_regs *context)
{
	return leave_verdict(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_decide_32(struct pt_regs *context)
{
	return leave_verdict(context, ENTRY_32);
}

SEC("fmod_ret/deliver")
long fl_deliver(const __u64 *arguments)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();
	__s64 *verdict = bpf_map_lookup_elem(&fl_verdicts, &thread), result;
	__u64 now;

	if (!verdict)
		return 0;
	result = *verdict;
	bpf_map_delete_elem(&fl_verdicts, &thread);
	if (!lease_start(&now))
		return 0;
	count(hit);
	return result;
}

/* Without a trampoline: a kprobe that overrides the result. */
static __always_inline int override(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&fl_call_config.failure, &now);
	long result;

	if (!start)
		return 0;
	result = decide_at(context, entry, start, now);
	if (result) {
		count(hit);
		bpf_override_return(context, result);
	}
	return 0;
}

SEC("kprobe/native")
int fl_override(struct pt_regs *context)
{
	return override(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_override_32(struct pt_regs *context)
{
	return override(context, ENTRY_32);
}

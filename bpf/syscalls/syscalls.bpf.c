//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs at the function of a system call that answer in its place. Go loads one
 * for each function.
 *
 * The kernel does not call the function when a program of its trampoline returns
 * something else than 0 (fmod_ret), or a kprobe overrides its result.
 */
#include "../include/hooks.h"
#include "asked.h"
#include "call.h"

char LICENSE[] SEC("license") = "GPL";

/*
 * Decides about the call of a task that is concerned: what it returns instead of
 * being carried out; 0: it is. Who does it counts it as hit.
 */
static __always_inline long decide(const void *registers, enum fl_entry entry, __u32 paths,
				   __u64 start, __u64 now)
{
	__u32 error;
	int sampled;

	if (!is_meant(registers, entry, paths))
		return 0;
	error = decide_failure(start, now, &sampled);
	if (sampled)
		sample_call(registers, entry, error, now);
	return -(long)error;
}

/*
 * They return a long: the process would take an int, which the kernel does not
 * extend, for a large positive number, and not for an error.
 */
static __always_inline long modify(const __u64 *arguments, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);
	long result;

	if (!start)
		return 0;
	result = decide((const void *)arguments[0], entry, fl_path_arguments, start, now);
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

static __always_inline long decide_at(struct pt_regs *context, enum fl_entry entry,
				      __u64 start, __u64 now)
{
	const void *registers = load_pointer((void *)context + fl_parameters.offset[0]);

	return decide(registers, entry, fl_path_arguments, start, now);
}

static __always_inline int leave_decision(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);

	if (!start)
		return 0;
	forget_verdict();
	leave_verdict(decide_at(context, entry, start, now));
	return 0;
}

SEC("kprobe/native")
int fl_decide(struct pt_regs *context)
{
	return leave_decision(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_decide_32(struct pt_regs *context)
{
	return leave_decision(context, ENTRY_32);
}

/* Without a trampoline: a kprobe that overrides the result. */
static __always_inline int override(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);
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

static __always_inline int decide_asked(void)
{
	__u64 now, start = concerned(&now);
	const void *registers;
	__u32 paths;

	if (!start || !asked_by_call(&registers, &paths))
		return 0;
	return negative(-decide(registers, ENTRY_NATIVE, paths, start, now));
}

AT_HOOK(asked, decide_asked())

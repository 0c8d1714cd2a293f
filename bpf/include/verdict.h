/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Verdicts that one program decides and another delivers.
 *
 * The kernel does not run a program of a function's trampoline (fmod_ret) while
 * another task is preempted in it on the same CPU, and goes on with the function: on
 * kernels that preempt, a busy target would miss a good part of its faults, and
 * nobody could tell which. There a kprobe decides, which runs before the trampoline
 * and is never preempted, and leaves a verdict for the task; several copies of a
 * program deliver it, one of which is free.
 */
#pragma once

#include "failure.h"
#include "read.h"

enum {
	PARAMETERS = 4,
};

/* Where a kprobe finds the first parameters of its function, bytes. */
struct fl_parameters {
	__u32 offset[PARAMETERS];
};
_Static_assert(sizeof(struct fl_parameters) == 16, "known to Go");

volatile const struct fl_parameters fl_parameters;

static __always_inline void read_parameters(const void *context, __u64 *arguments)
{
	for (int i = 0; i < PARAMETERS; i++)
		arguments[i] = load_word(context + fl_parameters.offset[i]);
}

/* What threads' calls are to return, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __s64);
} fl_verdicts SEC(".maps");

/*
 * Before a thread's call is decided about: a verdict of one before, that none was free
 * to deliver, is not for it.
 */
static __always_inline void forget_verdict(void)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&fl_verdicts, &thread);
}

static __always_inline void leave_verdict(__s64 result)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();

	if (result)
		bpf_map_update_elem(&fl_verdicts, &thread, &result, BPF_ANY);
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
	/* It may have left the target, and another have got its number. */
	if (!concerned(&now))
		return 0;
	count(hit);
	return result;
}

//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * System calls that are carried out later: probes at their functions, or where they ask
 * the security modules, that decide, and the programs that wait.
 */
#include "../include/delayed.h"
#include "asked.h"
#include "call.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline void delay_call(const void *registers, enum fl_entry entry, __u32 paths,
				       __u64 start, __u64 now)
{
	int sampled;

	if (!is_meant(registers, entry, paths))
		return;
	leave_verdict(decide_delay(start, now, &sampled));
	if (sampled)
		sample_call(registers, entry, 0, now);
}

static __always_inline int delay_at(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);

	if (!start)
		return 0;
	forget_verdict();
	delay_call(load_pointer((void *)context + fl_parameters.offset[0]), entry,
		   fl_path_arguments, start, now);
	return 0;
}

SEC("kprobe/native")
int fl_delay_call(struct pt_regs *context)
{
	return delay_at(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_delay_call_32(struct pt_regs *context)
{
	return delay_at(context, ENTRY_32);
}

SEC("kprobe/asked")
int fl_probe_asked(struct pt_regs *context)
{
	__u64 now, start = concerned(&now);
	const void *registers;
	__u32 paths;

	if (!start)
		return 0;
	forget_verdict();
	if (asked_by_call(&registers, &paths))
		delay_call(registers, ENTRY_NATIVE, paths, start, now);
	return 0;
}

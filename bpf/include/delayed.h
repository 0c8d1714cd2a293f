/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls of the target's tasks that are carried out later. A probe decides, which nothing
 * preempts, and leaves for the task how long it waits; a sleepable program behind it waits.
 *
 * The kernel does not run a program of a trampoline while a task sleeps in it on the same
 * CPU: copies of it follow each other (lanes), one of which is free. What none was free
 * for is chosen and not hit.
 */
#pragma once

#include "delay.h"
#include "failure.h"
#include "sleep.h"
#include "verdict.h"

#define FOREVER ((__u64)1 << 63)

/* delay of at least FOREVER: until the fault ends. */
volatile const struct fl_delay fl_delayed;

/* How long a call that matches, of a task that is concerned, waits, in ns; 0: it does not. */
static __always_inline __u64 decide_delay(__u64 start, __u64 now, int *sampled)
{
	const struct fl_delay_table *table = delay_table();
	struct fl_delay_state state = {};
	__u64 ordinal;

	if (!decide_hit(start, now, fl_delayed.jitter != 0, &ordinal, sampled) || !table)
		return 0;
	return draw_delay(&fl_delayed, table, ordinal, &state) ?: 1;
}

/* Waits as the probe has said. */
static __always_inline void wait_for_verdict(void)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();
	__u64 *verdict = bpf_map_lookup_elem(&fl_verdicts, &thread);
	__u64 delay, now;

	if (!verdict)
		return;
	delay = *verdict;
	bpf_map_delete_elem(&fl_verdicts, &thread);
	/* It may have left the target, and another have got its number. */
	if (!lease_start(&now) || !runs_below(&fl_failure.target))
		return;
	/* Before it waits: it is hit now. */
	count(hit);
	if (!sleep_until(delay >= FOREVER ? FOREVER : now + delay))
		uncount(hit);
}

SEC("fmod_ret.s/sleep")
long fl_sleep(const __u64 *arguments)
{
	wait_for_verdict();
	return 0;
}

SEC("lsm.s/sleep")
int fl_lsm_sleep(const __u64 *arguments)
{
	wait_for_verdict();
	return 0;
}

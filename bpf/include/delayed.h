/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls of the target's tasks that take longer. A probe decides, which nothing preempts,
 * and leaves for the task how long it waits. Another program behind it waits, before the
 * call is carried out, or has the kernel call it when the task returns to user space: the
 * call was carried out then, and nothing is locked.
 *
 * The kernel does not run a program of a trampoline while a task is in it on the same
 * CPU, as one that sleeps is: copies of it follow each other (lanes), one of which is
 * free. What none was free for is chosen and not hit.
 */
#pragma once

#include "delay.h"
#include "failure.h"
#include "sleep.h"
#include "verdict.h"

#define FOREVER ((__u64)1 << 63)

enum {
	/* How many pages are tried: one that was just left may still be worked on. */
	RETURN_TRIES = 4,
	PF_EXITING = 0x4,
};

/* The kernel's, which finds them by their names. */
struct bpf_map {
	__u32 id;
};

struct bpf_task_work {
	__u64 __opaque;
} __attribute__((aligned(8)));

typedef int (*bpf_task_work_callback_t)(struct bpf_map *map, void *key, void *value);

extern int bpf_task_work_schedule_resume(struct task_struct *task, struct bpf_task_work *work,
					 void *map,
					 bpf_task_work_callback_t callback) __ksym __weak;

/* delay of at least FOREVER: until the fault ends. */
volatile const struct fl_delay fl_delayed;

/* Where the kernel has a task's flags, bytes. */
volatile const __u32 fl_task_flags;

/* A wait that is to come, by its page. */
struct fl_work {
	__u64 delay;
	struct bpf_task_work work;
};
_Static_assert(sizeof(struct fl_work) == 16, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLEEPS_MAX);
	__type(key, __u32);
	__type(value, struct fl_work);
} fl_works SEC(".maps");

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

/* Whether who was chosen may wait still: it may have left the target since. */
static __always_inline int may_wait(__u64 *now)
{
	return lease_start(now) && runs_below(&fl_failure.target);
}

static __always_inline __u64 end_of(__u64 delay, __u64 now)
{
	return delay >= FOREVER ? FOREVER : now + delay;
}

/* The kernel calls it when the task returns. */
static int wait_at_return(struct bpf_map *map, __u32 *key, struct fl_work *work)
{
	const void *task = (const void *)bpf_get_current_task();
	__u32 page = *key;
	struct fl_sleep *sleep = bpf_map_lookup_elem(&fl_sleeps, &page);
	__u64 now;

	if (!sleep)
		return 0;
	/* Who is on its way out could not be killed any more. */
	if (may_wait(&now) && !(load_half(task + fl_task_flags) & PF_EXITING)) {
		count(hit);
		if (!sleep_on(sleep, page, end_of(work->delay, now)))
			uncount(hit);
	}
	leave_page(sleep);
	return 0;
}

static __always_inline void wait_before_return(__u64 delay)
{
	for (int i = 0; i < RETURN_TRIES; i++) {
		struct fl_sleep *sleep;
		struct fl_work *work;
		__u32 page;

		sleep = take_page(&page);
		if (!sleep)
			return;
		work = bpf_map_lookup_elem(&fl_works, &page);
		if (!work)
			return; /* never, but to the verifier */
		work->delay = delay;
		if (!bpf_task_work_schedule_resume(bpf_get_current_task_btf(), &work->work, &fl_works,
						   (bpf_task_work_callback_t)wait_at_return))
			return;
		leave_page(sleep);
	}
}

/* Takes what the probe has said: how long the task waits; 0: it does not. */
static __always_inline __u64 take_verdict(void)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();
	__u64 *verdict = bpf_map_lookup_elem(&fl_verdicts, &thread), delay;

	if (!verdict)
		return 0;
	delay = *verdict;
	bpf_map_delete_elem(&fl_verdicts, &thread);
	return delay;
}

static __always_inline void wait_now(void)
{
	__u64 delay = take_verdict(), now;

	if (!delay || !may_wait(&now))
		return;
	/* Before it waits: it is hit now. */
	count(hit);
	if (!sleep_until(end_of(delay, now)))
		uncount(hit);
}

SEC("fmod_ret.s/sleep")
long fl_sleep(const __u64 *arguments)
{
	wait_now();
	return 0;
}

SEC("lsm.s/sleep")
int fl_lsm_sleep(const __u64 *arguments)
{
	wait_now();
	return 0;
}

SEC("fentry/sleep_later")
int fl_sleep_later(const __u64 *arguments)
{
	__u64 delay = take_verdict();

	if (delay)
		wait_before_return(delay);
	return 0;
}

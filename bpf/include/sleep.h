/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sleeping, for which BPF has no helper: a sleepable program reads a page of a process
 * of ours (the holder) that is never there. The kernel asks the file system that the
 * page is of, and that is ours too (faults/sleeper): it answers, with an error, when the
 * time has come. The task waits meanwhile as for a slow disk, but can be killed.
 *
 * Each sleeper has a page to itself: two on one would wake one after the other.
 */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

/* The kernel's; who loads a call of its functions compares the names of their types. */
struct task_struct {
	int pid;
};

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;

enum {
	/* A power of two. */
	SLEEPS_MAX = 1024,
	/* How many are tried for one that is free. */
	SLEEP_TRIES = 64,
};

struct fl_sleeper {
	/* Where the holder has the pages. */
	__u64 base;
	__u32 holder; /* its pid */
	__u32 page_shift;
};
_Static_assert(sizeof(struct fl_sleeper) == 16, "known to Go");

volatile const struct fl_sleeper fl_sleeper;

/* Who sleeps on a page; the file system reads it. */
struct fl_sleep {
	/* CLOCK_BOOTTIME, ns. */
	__u64 until;
	__u32 taken;
	/* The file system let it end before its time. */
	__u32 cut;
};
_Static_assert(sizeof(struct fl_sleep) == 16, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLEEPS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct fl_sleep);
} fl_sleeps SEC(".maps");

/* Takes a page to sleep on; 0: SLEEPS_MAX are taken. */
static __always_inline struct fl_sleep *take_page(__u32 *page)
{
	__u32 first = bpf_get_prandom_u32();
	struct fl_sleep *sleep;

	for (int i = 0; i < SLEEP_TRIES; i++) {
		*page = (first + i) & (SLEEPS_MAX - 1);
		sleep = bpf_map_lookup_elem(&fl_sleeps, page);
		if (sleep && !__sync_val_compare_and_swap(&sleep->taken, 0, 1))
			return sleep;
	}
	return 0;
}

static __always_inline void leave_page(struct fl_sleep *sleep)
{
	__sync_lock_test_and_set(&sleep->taken, 0);
}

/*
 * Sleeps on a page until then. Returns 0 if that was not possible: nobody answers any
 * more. One that was cut short has slept.
 */
static __always_inline int sleep_on(struct fl_sleep *sleep, __u32 page, __u64 until)
{
	const volatile struct fl_sleeper *sleeper = &fl_sleeper;
	struct task_struct *holder;
	char byte;

	sleep->until = until;
	sleep->cut = 0;
	holder = bpf_task_from_pid(sleeper->holder);
	if (holder) {
		bpf_copy_from_user_task(&byte, sizeof(byte),
					(const void *)(sleeper->base +
						       ((__u64)page << sleeper->page_shift)),
					holder, 0);
		bpf_task_release(holder);
	}
	return sleep->cut || bpf_ktime_get_boot_ns() >= until;
}

/* Takes a page, and sleeps on it. */
static __always_inline int sleep_until(__u64 until)
{
	__u32 page;
	struct fl_sleep *sleep = take_page(&page);
	int slept;

	if (!sleep)
		return 0;
	slept = sleep_on(sleep, page, until);
	leave_page(sleep);
	return slept;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/* What the faults have in common that let calls of the target's tasks fail. */
#pragma once

#include "dice.h"
#include "lease.h"
#include "order.h"
#include "stats.h"
#include "task.h"

enum {
	ERRORS_MAX = 8,
	ERRNO_MAX = 4095,
};

/* One errno of several. */
struct fl_error {
	/* A random number below this, and not below that of the one before, is its
	 * own; parts of 2^32. */
	__u64 below;
	__u32 error; /* errno, above 0 */
	__u32 pad;
};

struct fl_failure {
	struct fl_dice dice;
	struct fl_target target;
	struct fl_error errors[ERRORS_MAX];
	__u32 errors_used;
	/* Count what would be hit, hit nothing. */
	__u32 observe;
};
_Static_assert(sizeof(struct fl_failure) == 120 + 8 + ERRORS_MAX * 16 + 8, "known to Go");

volatile const struct fl_failure fl_failure;

/*
 * Returns when the fault began if the current task is of its target, else 0. *now is
 * CLOCK_BOOTTIME.
 */
static __always_inline __u64 concerned(__u64 *now)
{
	__u64 start = lease_start(now);

	return start && runs_in(&fl_failure.target) ? start : 0;
}

static __always_inline __u32 choose_error(__u64 ordinal)
{
	const volatile struct fl_failure *failure = &fl_failure;
	__u64 random;

	if (failure->errors_used <= 1)
		return failure->errors[0].error;
	random = random_at(failure->dice.seed, ordinal, STREAM_MODEL);
	for (int i = 0; i < ERRORS_MAX; i++)
		if (random < failure->errors[i].below)
			return failure->errors[i].error;
	return failure->errors[0].error;
}

/*
 * Whether a call that matches, of a task that is concerned, is hit; who hits it counts
 * that. *ordinal is told when it is wanted. *sampled is told.
 */
static __always_inline int decide_hit(__u64 start, __u64 now, int wanted, __u64 *ordinal,
				      int *sampled)
{
	const volatile struct fl_failure *failure = &fl_failure;
	enum fl_throw thrown;

	*sampled = 0;
	if (!pulse_is_on(&failure->dice, now - start))
		return 0;
	count(matched);
	thrown = throw_next(&failure->dice, now - start, wanted, ordinal);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_MISS)
		return 0;
	*sampled = sample_is_due(now);
	return !failure->observe;
}

/* The same for a call that fails: 0, or the errno. */
static __always_inline __u32 decide_failure(__u64 start, __u64 now, int *sampled)
{
	__u64 ordinal;

	if (!decide_hit(start, now, fl_failure.errors_used > 1, &ordinal, sampled))
		return 0;
	return choose_error(ordinal);
}

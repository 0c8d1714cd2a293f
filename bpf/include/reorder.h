/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets that fall back behind later ones: until when one is held so that about
 * as many as wanted pass it, and which of those that were held were passed.
 *
 * The time that they take to pass is told from those before: a mean that follows
 * the last eight or so. A pause counts as no more than eight times the mean, so
 * that in a burst that follows it packets are held for the time of the burst.
 *
 * Nothing here calls a helper, so that it may stand between bpf_spin_lock and
 * bpf_spin_unlock.
 */
#pragma once

#include "decision.h"

enum {
	/* A power of two; more are not chosen in a row and held at one time. */
	REORDER_HELD_MAX = 128,
	/* The weight of a new interval in the mean is 1/8. */
	REORDER_SHIFT = 3,
	/* Nanoseconds: how long a packet is held at least, at most, and as long as
	 * there is no mean; and the least mean. */
	REORDER_LEAST = 50 * 1000,
	REORDER_MOST = 1000 * 1000 * 1000,
	REORDER_FIRST = 1000 * 1000,
	REORDER_MEAN_LEAST = 1000,
};

struct fl_reorder {
	/* How many are to pass a packet, 1 to 100. */
	__u32 gap;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_reorder) == 8, "known to Go");

/* A packet that is held. */
struct fl_held {
	/* CLOCK_MONOTONIC, ns. */
	__u64 departure;
	/* Of its decision. */
	__u32 key;
	__u32 pad;
};

/* Who shares it among CPUs holds a lock. */
struct fl_reorder_state {
	/* CLOCK_MONOTONIC of the packet before, ns; 0: there was none. */
	__u64 before;
	/* Between two packets, ns; 0: not known. */
	__u64 mean;
	/* The departure of the last that was held. */
	__u64 latest;
	/* How many were held so far, and of how many of these it was settled
	 * whether they are passed. */
	__u32 fallen;
	__u32 settled;
	struct fl_held held[REORDER_HELD_MAX];
};
_Static_assert(sizeof(struct fl_reorder_state) == 32 + 16 * REORDER_HELD_MAX,
	       "no padding of the compiler's");

/* Those of which a packet that passes settles it. */
struct fl_unsettled {
	__u32 first;
	__u32 end;
};

/* Called for each matched packet, whether it is held or not. */
static __always_inline void note_interval(struct fl_reorder_state *state, __u64 now)
{
	__u64 mean = state->mean;
	__u64 interval = 0;

	/* The time was read before the lock was taken. */
	if (now > state->before) {
		interval = now - state->before;
		state->before = now;
		/* The first one. */
		if (interval == now)
			return;
	}
	if (interval > REORDER_MOST)
		interval = REORDER_MOST;
	if (!mean)
		mean = interval;
	if (interval > mean << REORDER_SHIFT)
		interval = mean << REORDER_SHIFT;
	mean = mean - (mean >> REORDER_SHIFT) + (interval >> REORDER_SHIFT);
	state->mean = mean < REORDER_MEAN_LEAST ? REORDER_MEAN_LEAST : mean;
}

/* When a packet may leave that falls back: never before one that fell back earlier. */
static __always_inline __u64 fall_back(const volatile struct fl_reorder *config,
				       struct fl_reorder_state *state, __u64 now, __u32 key)
{
	__u64 hold = state->mean ? (2 * config->gap + 1) * state->mean / 2 : REORDER_FIRST;
	struct fl_held *held = &state->held[state->fallen & (REORDER_HELD_MAX - 1)];

	if (hold < REORDER_LEAST)
		hold = REORDER_LEAST;
	if (hold > REORDER_MOST)
		hold = REORDER_MOST;
	if (state->latest < now + hold)
		state->latest = now + hold;
	held->departure = state->latest;
	held->key = key;
	state->fallen++;
	return state->latest;
}

/* A packet goes by that is not held. */
static __always_inline struct fl_unsettled pass_by(struct fl_reorder_state *state)
{
	struct fl_unsettled unsettled = { state->settled, state->fallen };

	if (unsettled.end - unsettled.first > REORDER_HELD_MAX)
		unsettled.first = unsettled.end - REORDER_HELD_MAX;
	state->settled = state->fallen;
	return unsettled;
}

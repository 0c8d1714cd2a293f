/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long an event is delayed: delay + jitter * T, never below 0, where T is
 * drawn from a table that Go has written. Every draw is a function of the seed
 * and of the event's ordinal, but for the correlation, which remembers the
 * draw before. faults/dice has the same in Go, equal to the last bit.
 *
 * Nothing here calls a helper once the table was looked up, so that a draw may
 * stand between bpf_spin_lock and bpf_spin_unlock. Linux 5.10 takes all of it.
 */
#pragma once

#include "dice.h"

enum {
	/* Entries of a table are in parts of 2^28: T = entry / 2^28, -4 to 4. */
	DELAY_FRACTION_BITS = 28,
	/* netem's own limit (NETEM_DIST_MAX); a power of two. */
	DELAY_SIZE_MAX = 16384,
	/* The lower part of the jitter, where it is multiplied in two parts. */
	DELAY_LOW_BITS = 22,
};

enum fl_delay_shape {
	/* size values, each equally likely. */
	DELAY_STEPS = 0,
	/* size parts, equally likely, each even between its two ends. */
	DELAY_SMOOTH = 1,
};

struct fl_delay {
	/* Nanoseconds; jitter below 2^53. */
	__u64 delay;
	__u64 jitter;
	/* Parts of 2^32: how likely the draw before is used again. */
	__u64 correlation;
	/* May be the seed of the dice; the draws are independent of theirs. */
	__u64 seed;
	/* Steps or parts of the table, 1 to DELAY_SIZE_MAX. */
	__u32 size;
	__u32 shape; /* enum fl_delay_shape */
};
_Static_assert(sizeof(struct fl_delay) == 40, "known to Go");

/* Quantiles of T. A smooth table of n parts has n + 1 ends. */
struct fl_delay_table {
	__s32 entries[DELAY_SIZE_MAX + 1];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_delay_table);
} fl_delays SEC(".maps");

/* Zeroed before the first draw. Who shares it among CPUs holds a lock. */
struct fl_delay_state {
	__u64 last;
	/* There was a draw before. */
	__u32 drawn;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_delay_state) == 16, "no padding of the compiler's");

/* The streams of delays are turned away from those of the dice by a salt. */
#define DELAY_SALT 0xd1b54a32d192ed03ULL

enum fl_delay_stream {
	DELAY_STREAM_FACTOR = 0,
	DELAY_STREAM_AGAIN = 1,
};

/* Looked up before a lock is taken. NULL never happens, but to the verifier. */
static __always_inline const struct fl_delay_table *delay_table(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&fl_delays, &key);
}

/* T for a random number, in parts of 2^28. */
static __always_inline __s64 delay_factor(const volatile struct fl_delay *config,
					  const struct fl_delay_table *table, __u32 random)
{
	/* The middle of the random number's own share, in parts of 2^33. */
	__u64 at = (2 * (__u64)random + 1) * config->size;
	/* The mask is for the verifier, which does not know size. */
	__u32 i = (at >> 33) & (DELAY_SIZE_MAX - 1);
	__s64 low = table->entries[i];
	__s64 part;

	if (config->shape == DELAY_STEPS)
		return low;
	/* 28 bits of the place between the ends; the product is below 2^60. */
	part = (at >> 5) & ((1ULL << 28) - 1);
	return low + (((table->entries[i + 1] - low) * part) >> 28);
}

/* jitter * T, rounded, without 128 bits. */
static __always_inline __s64 delay_offset(__u64 jitter, __s64 factor)
{
	__s64 high = jitter >> DELAY_LOW_BITS;
	__s64 low = jitter & ((1ULL << DELAY_LOW_BITS) - 1);
	__s64 half = 1LL << (DELAY_FRACTION_BITS - DELAY_LOW_BITS - 1);

	return (high * factor + ((low * factor) >> DELAY_LOW_BITS) + half) >>
	       (DELAY_FRACTION_BITS - DELAY_LOW_BITS);
}

/*
 * The delay in nanoseconds of the event with that ordinal. It is called once
 * for each event that is delayed, in their order.
 */
static __always_inline __u64 draw_delay(const volatile struct fl_delay *config,
					const struct fl_delay_table *table, __u64 n,
					struct fl_delay_state *state)
{
	__u64 seed = config->seed ^ DELAY_SALT;
	__s64 delay = config->delay;

	if (!config->jitter)
		return delay;
	if (state->drawn && random_at(seed, n, DELAY_STREAM_AGAIN) < config->correlation)
		return state->last;
	delay += delay_offset(config->jitter,
			      delay_factor(config, table, random_at(seed, n, DELAY_STREAM_FACTOR)));
	if (delay < 0)
		delay = 0;
	state->drawn = 1;
	state->last = delay;
	return delay;
}

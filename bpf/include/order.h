/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Throwing the dice in programs that may take no lock: those at functions of the
 * kernel. Every event gets an ordinal of its own all the same, by an atomic addition
 * that returns what was before. Kernels before 5.12 don't have it: for them the same
 * programs are compiled with FL_TOKEN, and whoever has the one token decides.
 */
#pragma once

#include "dice.h"

struct fl_order {
	/* Matching events so far: the ordinal of the next. */
	__u64 ordinal;
	__u64 hits;
};
_Static_assert(sizeof(struct fl_order) == 16, "known to Go");

/* CLOCK_BOOTTIME of the last sampled event. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fl_sampled SEC(".maps");

#ifdef FL_TOKEN

enum {
	/* How often it is asked for, if others have it: each has it for less than a
	 * microsecond. */
	TOKEN_TRIES = 512,
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__uint(key_size, 0);
	__type(value, struct fl_order);
} fl_token SEC(".maps");

static __always_inline int take_token(struct fl_order *order)
{
	for (int i = 0; i < TOKEN_TRIES; i++)
		if (!bpf_map_pop_elem(&fl_token, order))
			return 1;
	return 0;
}

static __always_inline void give_token_back(const struct fl_order *order)
{
	bpf_map_push_elem(&fl_token, order, 0);
}

#define next(field) (order->field++)

#else

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_order);
} fl_order SEC(".maps");

#define next(field) __sync_fetch_and_add(&order->field, 1)

#endif

/* As throw_dice, for faults without a model of their own. */
static __always_inline enum fl_throw throw_in_order(const volatile struct fl_dice *dice,
						    struct fl_order *order, __u64 elapsed,
						    __u64 *ordinal)
{
	__u64 n = next(ordinal);

	*ordinal = n;
	if (!rate_hits(dice, n) || !ramp_lets_hit(dice, n, elapsed))
		return THROW_PASS;
	if (dice->first && next(hits) >= dice->first)
		return THROW_PASS;
	return THROW_HIT;
}

/* Whether every event is hit, whatever its ordinal. */
static __always_inline int hits_all(const volatile struct fl_dice *dice)
{
	return dice->probability == ALWAYS && !dice->skip && !dice->every && !dice->first &&
	       !dice->ramp;
}

/*
 * Throws for the next event; THROW_MISS if that can't be done. *ordinal is told when
 * it is wanted, or the dice go by it; else it is 0.
 */
static __always_inline enum fl_throw throw_next(const volatile struct fl_dice *dice,
						__u64 elapsed, int wanted, __u64 *ordinal)
{
	enum fl_throw thrown;
#ifdef FL_TOKEN
	struct fl_order order;

	*ordinal = 0;
	if (!wanted && hits_all(dice))
		return THROW_HIT;
	if (!take_token(&order))
		return THROW_MISS;
	thrown = throw_in_order(dice, &order, elapsed, ordinal);
	give_token_back(&order);
#else
	__u32 key = 0;
	struct fl_order *order;

	*ordinal = 0;
	if (!wanted && hits_all(dice))
		return THROW_HIT;
	order = bpf_map_lookup_elem(&fl_order, &key);
	if (!order)
		return THROW_MISS;
	thrown = throw_in_order(dice, order, elapsed, ordinal);
#endif
	return thrown;
}

/* Whether it is time for another sample. Two CPUs may both say so. */
static __always_inline int sample_is_due(__u64 now)
{
	__u32 key = 0;
	__u64 *sampled = bpf_map_lookup_elem(&fl_sampled, &key);

	if (!sampled || (*sampled && now - *sampled <= SAMPLE_INTERVAL))
		return 0;
	*sampled = now;
	return 1;
}

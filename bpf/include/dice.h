/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which of the matching events are hit. Every choice is a function of the seed
 * and of the event's ordinal, so that a run can be repeated. faults/dice has
 * the same in Go.
 */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

/* Probabilities are kept in parts of 2^32; 2^32 itself means always. */
#define ALWAYS (1ULL << 32)

enum fl_model {
	MODEL_ALWAYS = 0,
	MODEL_INDEPENDENT = 1,
	/* With the probability correlation: the same fate as the event before. */
	MODEL_CORRELATED = 2,
	MODEL_GILBERT_ELLIOTT = 3,
};

struct fl_dice {
	__u64 seed;
	/* The rate of the document; 0 of every and first: not given. */
	__u64 skip;
	__u64 every;
	__u64 first;
	__u64 probability;
	/* The model of the fault. */
	__u64 loss;
	__u64 correlation;
	__u64 good_to_bad;
	__u64 bad_to_good;
	__u64 loss_good;
	__u64 loss_bad;
	/* Nanoseconds; 0: not given. */
	__u64 ramp;
	__u64 pulse_on;
	__u64 pulse_period;
	__u32 model; /* enum fl_model */
	__u32 pad;
};
_Static_assert(sizeof(struct fl_dice) == 120, "known to Go");

/* One ordinal has a stream of its own for each question that is asked. */
enum fl_stream {
	STREAM_RATE = 0,
	STREAM_MODEL = 1,
	STREAM_CHAIN = 2,
	STREAM_RAMP = 3,
	STREAMS = 4,
};

enum fl_throw {
	/* At the most one event in that time is reported. */
	SAMPLE_INTERVAL = 10 * 1000 * 1000,

	THROW_PASS = 0,
	THROW_HIT = 1,
	THROW_HIT_AND_SAMPLE = 2,
	/* Nobody knows: the event could not be decided about. */
	THROW_MISS = 3,
};

/* splitmix64 (Steele, Lea, Flood 2014), used as a counter-based generator. */
static __always_inline __u32 random_at(__u64 seed, __u64 ordinal, __u32 stream)
{
	__u64 x = seed + (ordinal * STREAMS + stream + 1) * 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	x ^= x >> 31;
	return x >> 32;
}

static __always_inline int chance(const volatile struct fl_dice *dice, __u64 ordinal,
				  __u32 stream, __u64 probability)
{
	return random_at(dice->seed, ordinal, stream) < probability;
}

/* Is the fault in the on part of its pulse? */
static __always_inline int pulse_is_on(const volatile struct fl_dice *dice, __u64 elapsed)
{
	return !dice->pulse_period ||
	       elapsed % dice->pulse_period < dice->pulse_on;
}

/* The ramp grows evenly: after half its time half of the hits are let by. */
static __always_inline int ramp_lets_hit(const volatile struct fl_dice *dice, __u64 n,
					 __u64 elapsed)
{
	if (elapsed >= dice->ramp)
		return 1;
	/* 2^-16 steps, so that elapsed (below 2^47 ns, a day) can't overflow. */
	return chance(dice, n, STREAM_RAMP,
		      ((elapsed << 16) / dice->ramp) << 16);
}

static __always_inline int rate_hits(const volatile struct fl_dice *dice, __u64 n)
{
	if (n < dice->skip)
		return 0;
	if (dice->every && (n - dice->skip + 1) % dice->every)
		return 0;
	return chance(dice, n, STREAM_RATE, dice->probability);
}

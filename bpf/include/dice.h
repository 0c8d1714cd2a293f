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

struct fl_dice_state {
	struct bpf_spin_lock lock;
	/* Of the Gilbert-Elliott chain. */
	__u32 bad;
	/* The fate of the event before. */
	__u32 last;
	__u32 pad;
	/* Matching events so far: the ordinal of the next. */
	__u64 ordinal;
	__u64 hits;
	/* CLOCK_BOOTTIME of the last sampled event. */
	__u64 sampled;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_dice_state);
} fl_state SEC(".maps");

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

static __always_inline int model_hits(const volatile struct fl_dice *dice,
				      struct fl_dice_state *state, __u64 n)
{
	switch (dice->model) {
	case MODEL_INDEPENDENT:
		return chance(dice, n, STREAM_MODEL, dice->loss);
	case MODEL_CORRELATED:
		if (n == 0 || !chance(dice, n, STREAM_CHAIN, dice->correlation))
			state->last = chance(dice, n, STREAM_MODEL, dice->loss);
		return state->last;
	case MODEL_GILBERT_ELLIOTT:
		if (chance(dice, n, STREAM_CHAIN,
			   state->bad ? dice->bad_to_good : dice->good_to_bad))
			state->bad = !state->bad;
		return chance(dice, n, STREAM_MODEL,
			      state->bad ? dice->loss_bad : dice->loss_good);
	default:
		return 1;
	}
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

/* NULL never happens, but to the verifier. */
static __always_inline struct fl_dice_state *dice_state(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&fl_state, &key);
}

/*
 * Called once for each matching event with the state locked; *ordinal is told.
 * elapsed is the time since the fault began; now is only used to space the
 * sampled events.
 */
static __always_inline enum fl_throw throw_dice(const volatile struct fl_dice *dice,
						struct fl_dice_state *state,
						__u64 elapsed, __u64 now,
						__u64 *ordinal)
{
	enum fl_throw result = THROW_PASS;
	__u64 n = state->ordinal++;
	int hit;

	/* The model goes on with every event, whatever the rate says. */
	hit = model_hits(dice, state, n);
	hit = hit && rate_hits(dice, n) && ramp_lets_hit(dice, n, elapsed);
	if (hit && dice->first && state->hits >= dice->first)
		hit = 0;
	if (hit) {
		state->hits++;
		result = THROW_HIT;
		if (!state->sampled || now - state->sampled > SAMPLE_INTERVAL) {
			state->sampled = now;
			result = THROW_HIT_AND_SAMPLE;
		}
	}
	*ordinal = n;
	return result;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Throwing the dice for events that come on several CPUs at a time: under a
 * lock, which programs on kprobes may not take.
 */
#pragma once

#include "dice.h"

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

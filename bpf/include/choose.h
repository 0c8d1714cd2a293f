/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What one fault is told, and the choice whether it hits a packet and how long
 * that waits. The programs of both directions share the state of it.
 */
#pragma once

#include "decision.h"
#include "delay.h"
#include "filter.h"
#include "packet.h"
#include "reorder.h"
#include "shape.h"
#include "stats.h"
#include "throw.h"

struct fl_config {
	struct fl_dice dice;
	struct fl_filter filter;
	/* How long packets are held, and how fast they may go on. */
	struct fl_delay delay;
	struct fl_shape shape;
	/* How far they fall back. */
	struct fl_reorder reorder;
	/* The marks of the run, of which it is the only one: MARK_RUN. */
	__u32 run;
	/* The fault's number in the run, below FAULTS_MAX. */
	__u32 fault;
	/* Count what would be hit, hit nothing. */
	__u32 observe;
	/* bpf/inbound: bit n: some target is at level n of the hierarchy. */
	__u32 levels;
	/* The class of a qdisc to which fl_steer_egress leads packets: its handle
	 * and, from 1 on, its number. */
	__u32 class;
	/* Leave the checksum of a damaged packet as it was. */
	__u32 wrong;
};
_Static_assert(sizeof(struct fl_config) == 224, "known to Go");

volatile const struct fl_config fl_config;

enum fl_way {
	RECEIVED = 0,
	SENT = 1,
	WAYS = 2,
};

/* What is remembered between two packets, under the lock of the dice. */
struct fl_memory {
	/* The delay before, when delays are correlated. */
	struct fl_delay_state delay;
	/* Each way has the rate for itself, and packets that pass others. */
	struct fl_shape_state shape[WAYS];
	struct fl_reorder_state reorder[WAYS];
};
_Static_assert(sizeof(struct fl_memory) == 32 + WAYS * sizeof(struct fl_reorder_state),
	       "no padding of the compiler's");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_memory);
} fl_memory SEC(".maps");

/*
 * Counts as hit what still waited when the packet went by. What was lost since,
 * or left by an interface where nothing holds it, does not wait.
 */
__global int settle(enum fl_way way, __u32 first, __u32 end, __u64 now)
{
	const struct fl_reorder_state *state;
	const struct fl_memory *memory;
	__u32 key = 0;

	memory = bpf_map_lookup_elem(&fl_memory, &key);
	if (!memory)
		return 0;
	state = way == SENT ? &memory->reorder[SENT] : &memory->reorder[RECEIVED];
	for (__u32 i = 0; i < REORDER_HELD_MAX; i++) {
		const struct fl_held *held =
			&state->held[(first + i) & (REORDER_HELD_MAX - 1)];
		struct fl_decision *decision;

		if (first + i == end)
			break;
		if (held->departure <= now)
			continue;
		key = held->key;
		decision = bpf_map_lookup_elem(&fl_decisions, &key);
		if (decision && decision->effects & HELD)
			count(hit);
	}
	return 0;
}

/* What is known of a packet that was chosen. */
struct choice {
	struct fl_packet packet;
	__u64 ordinal;
	/* How long it waits, ns; only with EFFECT_HOLD and EFFECT_SHAPE. */
	__u64 hold;
	/* CLOCK_MONOTONIC, ns: it waits until then; only with EFFECT_REORDER. */
	__u64 after;
	/* What happens to it: the effect that was asked for, or EFFECT_LOSE. */
	__u32 effect;
	/* That it has now. */
	__u32 mark;
};

/*
 * Throws the dice, and says for what they hit how long it waits: under one lock,
 * so that the order of the packets is that of their times. A packet that is only
 * to be shaped and need not wait is not hit. bytes is its length, for a shape.
 * The effect is a constant, so that a program has only the maps that it needs.
 */
static __always_inline enum fl_throw throw_and_time(__u32 bytes, enum fl_way way, __u64 elapsed,
						    __u64 now, __u32 effect, struct choice *choice)
{
	/* Volatile all the way: the compiler must not take the zeros that stand
	 * here for the values that are set before loading. */
	const volatile struct fl_config *config = &fl_config;
	struct fl_dice_state *state = dice_state();
	const struct fl_delay_table *table = 0;
	struct fl_memory *memory = 0;
	enum fl_throw thrown;
	__u64 monotonic = 0;
	struct fl_unsettled passed = {};
	__u32 key = 0;

	if (!state)
		return THROW_PASS;
	if (effect & (EFFECT_HOLD | EFFECT_SHAPE | EFFECT_REORDER)) {
		memory = bpf_map_lookup_elem(&fl_memory, &key);
		if (!memory)
			return THROW_PASS;
	}
	if (effect & EFFECT_HOLD) {
		table = delay_table();
		if (!table)
			return THROW_PASS;
	}
	if (effect & (EFFECT_SHAPE | EFFECT_REORDER))
		monotonic = bpf_ktime_get_ns();
	bpf_spin_lock(&state->lock);
	thrown = throw_dice(&config->dice, state, elapsed, now, &choice->ordinal);
	if (effect & EFFECT_HOLD && thrown != THROW_PASS)
		choice->hold = draw_delay(&config->delay, table, choice->ordinal, &memory->delay);
	if (effect & EFFECT_SHAPE && thrown != THROW_PASS) {
		choice->hold = shape(&config->shape, &memory->shape[way], monotonic, bytes);
		if (!choice->hold)
			thrown = THROW_PASS;
	}
	if (effect & EFFECT_REORDER) {
		note_interval(&memory->reorder[way], monotonic);
		if (thrown == THROW_PASS)
			passed = pass_by(&memory->reorder[way]);
		else
			choice->after = fall_back(&config->reorder, &memory->reorder[way], monotonic,
						  decision_key(choice->mark, config->run, config->fault,
							       choice->ordinal));
	}
	bpf_spin_unlock(&state->lock);
	if (effect & EFFECT_REORDER)
		settle(way, passed.first, passed.end, monotonic);
	choice->effect = effect;
	if (effect & EFFECT_SHAPE && choice->hold == SHAPE_FULL) {
		choice->effect = EFFECT_LOSE;
		choice->hold = 0;
	}
	return thrown;
}

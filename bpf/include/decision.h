/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What was decided about a packet at the cgroup's hook, for the interface where
 * it is done. On its way between both the packet's mark says where it stands:
 *
 *   31 ... 15 | 14   | 13 ... 10 | 9 ... 0
 *   the run   | copy | the fault | the packet
 *
 * All network faults of a run share the table. The first that hits a packet
 * makes the decision, and those after it add to it, so that an interface does
 * everything at once, and any of the faults' programs there can do it.
 *
 * What is decided about received packets stands in skb->cb (bpf/inbound). Their
 * place in the table says which bit is flipped, and whether they are held.
 */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

enum {
	/* Of one run. */
	FAULTS_MAX = 16,
	PACKET_BITS = 10,
	/* A packet that waits for its neighbour's address keeps its place until
	 * as many others were decided about. */
	PACKETS_MAX = 1 << PACKET_BITS,
	DECISIONS_MAX = FAULTS_MAX * PACKETS_MAX,

	/* The copy that was made in place of the packet. */
	MARK_COPY = 1 << 14,
	MARK_KEY = MARK_COPY - 1,
};

#define MARK_RUN (~(__u32)(MARK_COPY | MARK_KEY))

enum fl_effect {
	EFFECT_LOSE = 1 << 0,
	/* It waits without its socket, as on a long way. */
	EFFECT_HOLD = 1 << 1,
	/* It waits with its socket, which feels the queue. */
	EFFECT_SHAPE = 1 << 2,
	EFFECT_DUPLICATE = 1 << 3,
	EFFECT_CORRUPT = 1 << 4,
	/* It waits without its socket until others have passed it. */
	EFFECT_REORDER = 1 << 5,

	/* What copies of a large segment are cut to: one of them to the part that
	 * is hit, and all others to the rest (bpf/tc). */
	EFFECT_CUT_HIT = 1 << 16,
	EFFECT_CUT_REST = 1 << 17,
	/* No effect, but what became of it: the interface holds it, or a copy. */
	HELD = 1 << 18,
};

/* Where the parts of a packet begin, from its first byte. */
struct fl_place {
	__u8 network;
	/* As in struct fl_packet. */
	__u8 protocol;
	__u16 fragment;
	__u16 transport;
	__u16 payload;
};

struct fl_decision {
	/* How long it is held, ns. */
	__u64 hold;
	/* Where the time that it is held begins at the earliest, and when it may
	 * leave; CLOCK_MONOTONIC in ns. */
	__u64 after;
	__u64 departure;
	/* The mark that it had. */
	__u32 mark;
	/* Bit n: fault n of the run hits it. */
	__u32 faults;
	__u32 effects; /* enum fl_effect */
	/* Which bit is flipped and how (corrupt.h); only with EFFECT_CORRUPT. */
	__u32 damage;
	/* Of the packet that is being damaged. */
	struct fl_place place;
};
_Static_assert(sizeof(struct fl_decision) == 48, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DECISIONS_MAX);
	__type(key, __u32);
	__type(value, struct fl_decision);
} fl_decisions SEC(".maps");

/* The decision about a packet with this mark; NULL when there is none. */
static __always_inline struct fl_decision *decision_of(__u32 mark, __u32 run)
{
	__u32 key = mark & MARK_KEY;

	if ((mark & MARK_RUN) != run)
		return 0;
	return bpf_map_lookup_elem(&fl_decisions, &key);
}

/* The place of the decision about a packet with this mark, when there is one or not. */
static __always_inline __u32 decision_key(__u32 mark, __u32 run, __u32 fault, __u64 ordinal)
{
	if ((mark & MARK_RUN) == run)
		return mark & MARK_KEY;
	return fault << PACKET_BITS | (ordinal & (PACKETS_MAX - 1));
}

/*
 * Adds one fault's effect to what the others want of the packet. It is held that
 * long from now on, or from after.
 */
static __always_inline void decide(struct __sk_buff *skb, __u32 run, __u32 fault,
				   __u64 ordinal, __u32 effect, __u64 hold, __u64 after)
{
	struct fl_decision *decision = decision_of(skb->mark, run);

	if (!decision) {
		__u32 key = decision_key(skb->mark, run, fault, ordinal);

		decision = bpf_map_lookup_elem(&fl_decisions, &key);
		if (!decision)
			return;
		decision->hold = 0;
		decision->after = 0;
		decision->mark = skb->mark;
		decision->faults = 0;
		decision->effects = 0;
		skb->mark = run | key;
	}
	decision->hold += hold;
	if (decision->after < after)
		decision->after = after;
	decision->faults |= 1 << fault;
	decision->effects |= effect;
}

/* What was done, by fault. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FAULTS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} fl_done SEC(".maps");

/* Counts a packet for every fault that hit it. */
static __always_inline void count_done(__u32 faults)
{
#pragma unroll
	for (__u32 fault = 0; fault < FAULTS_MAX; fault++) {
		/* A key of its own: the verifier of 6.12 forgets a counter whose
		 * address is taken, and sees a loop without an end. */
		__u32 key = fault;
		__u64 *done;

		if (!(faults >> fault & 1))
			continue;
		done = bpf_map_lookup_elem(&fl_done, &key);
		if (done)
			__sync_fetch_and_add(done, 1);
	}
}

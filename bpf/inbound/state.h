/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the faults of a run have decided about a packet that comes in. It stands
 * in skb->cb, scratch space between tc programs to which nothing in between
 * writes, also not the way to an ifb device: the clone there has it too.
 *
 *   cb[0]    the run, and the place of its decision: what the mark is to a
 *            packet that is sent (decision.h)
 *   cb[1]    the same, inverted: what the layers below leave in cb is as good
 *            as random
 *   cb[2, 3] until when it is held, CLOCK_MONOTONIC in ns; 0: it is not
 *   cb[4]    enum fl_in_bits
 */
#pragma once

#include "../include/abi.h"
#include "../include/decision.h"

enum fl_in_bits {
	/* Bit n: fault n of the run hits it. */
	IN_FAULTS = 0xffff,
	/* The packet itself is not received: a clone is, or nothing. */
	IN_SWALLOW = 1 << 16,
	/* Clones of it, as many as are wanted and as were made. */
	IN_HELD = 1 << 17,
	IN_TWICE = 1 << 18,
	IN_FIRST = 1 << 19,
	IN_SECOND = 1 << 20,
	/* There is no room for it: no clone either. */
	IN_LOST = 1 << 21,
	/* Its decision is to say that it is held. */
	IN_FALLS = 1 << 22,
};

static __always_inline int in_decided(struct __sk_buff *skb, __u32 run)
{
	return skb->cb[0] == ~skb->cb[1] && (skb->cb[0] & MARK_RUN) == run;
}

static __always_inline __u64 in_until(struct __sk_buff *skb)
{
	return skb->cb[2] | (__u64)skb->cb[3] << 32;
}

/* Adds what one fault wants of the packet; key is the place of its decision. */
static __always_inline void in_decide(struct __sk_buff *skb, __u32 run, __u32 key, __u32 bits,
				      __u64 now, __u64 hold)
{
	__u64 until = 0;

	if (in_decided(skb, run)) {
		until = in_until(skb);
		bits |= skb->cb[4];
	}
	if (hold)
		until = (until ? until : now) + hold;
	skb->cb[0] = run | key;
	skb->cb[1] = ~(run | key);
	skb->cb[2] = until;
	skb->cb[3] = until >> 32;
	skb->cb[4] = bits;
}

/* The next clone that is to be made: IN_FIRST, IN_SECOND, or 0. */
static __always_inline __u32 in_next(__u32 bits)
{
	int wanted = !!(bits & IN_HELD) + !!(bits & IN_TWICE);

	if (bits & IN_LOST)
		return 0;
	if (wanted > 0 && !(bits & IN_FIRST))
		return IN_FIRST;
	if (wanted > 1 && !(bits & IN_SECOND))
		return IN_SECOND;
	return 0;
}

/* In skb->tc_index: the run is done with it. Above the interface by which a
 * packet came there may be others (VLAN, bridge) where it passes again. */
static __always_inline __u32 in_done(__u32 run)
{
	return run >> 16 ? run >> 16 : 1;
}

/* No program takes it for one that has just been chosen. */
static __always_inline void in_finish(struct __sk_buff *skb, __u32 run)
{
	skb->cb[0] = 0;
	skb->cb[1] = 0;
	skb->tc_index = in_done(run);
}

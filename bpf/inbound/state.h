/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the faults of a run have decided about a packet that comes in. It stands
 * in skb->cb, scratch space between tc programs to which nothing in between
 * writes, also not the way to an ifb device: the clone there has it too.
 *
 *   cb[0]    the run
 *   cb[1]    the same, inverted: what the layers below leave in cb is as good
 *            as random, and 64 bits are compared
 *   cb[2, 3] how long it is held, ns
 *   cb[4]    enum fl_in_bits
 */
#pragma once

#include "../include/abi.h"

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
};

enum {
	/* In the bits of cb[0] that say nothing of the run. */
	IN_MARK = 0x2b5d,
};

static __always_inline int in_decided(struct __sk_buff *skb, __u32 run)
{
	__u32 mark = run | IN_MARK;

	return skb->cb[0] == mark && skb->cb[1] == ~mark;
}

static __always_inline void in_decide(struct __sk_buff *skb, __u32 run, __u32 bits, __u64 hold)
{
	if (in_decided(skb, run)) {
		hold += skb->cb[2] | (__u64)skb->cb[3] << 32;
		bits |= skb->cb[4];
	}
	skb->cb[0] = run | IN_MARK;
	skb->cb[1] = ~(run | IN_MARK);
	skb->cb[2] = hold;
	skb->cb[3] = hold >> 32;
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

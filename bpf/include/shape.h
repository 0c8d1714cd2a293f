/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A limit of the rate: when a packet may leave so that all of them together keep
 * to it (a token bucket, kept as the time at which it is full again).
 */
#pragma once

#include "packet.h"

struct fl_shape {
	/* Nanoseconds that a byte takes, in parts of 2^16. */
	__u64 byte_time;
	/* How long a full bucket lasts at that rate, ns. */
	__u64 burst;
	/* A packet that would have to wait longer, ns, is lost, and costs nothing.
	 * Who sends can't be made to wait when a packet has already arrived. */
	__u64 longest;
};
_Static_assert(sizeof(struct fl_shape) == 24, "known to Go");

/* There is no room for the packet. */
#define SHAPE_FULL (~0ULL)

/* Who shares it among CPUs holds a lock. */
struct fl_shape_state {
	/* CLOCK_MONOTONIC, ns: when what was sent so far has been paid for. */
	__u64 paid;
};

enum { TCP_HEADER_LENGTH = 12 };

/*
 * The bytes that pass the line, from the network header, of a packet that has
 * length of them. A segment that is cut up later, or was put together,
 * has its headers once; each of its parts has them.
 */
static __always_inline __u32 bytes_on_the_wire(struct __sk_buff *skb,
					       const struct fl_packet *packet, __u32 length)
{
	__u32 headers = packet->family == 4 ? 20 : 40;
	__u8 offset;

	if (skb->gso_segs <= 1)
		return length;
	if (packet->protocol != IPPROTO_TCP)
		headers += 8;
	else if (!load_net(skb, headers + TCP_HEADER_LENGTH, &offset, 1))
		headers += offset >> 4 << 2;
	return length + (skb->gso_segs - 1) * headers;
}

/* How long the packet has to wait, ns; 0 for one that may go at once, and
 * SHAPE_FULL for one that is lost. */
static __always_inline __u64 shape(const volatile struct fl_shape *config,
				   struct fl_shape_state *state, __u64 now, __u32 bytes)
{
	__u64 departure = state->paid;

	if (departure + config->burst < now)
		departure = now - config->burst;
	if (departure > now && departure - now > config->longest)
		return SHAPE_FULL;
	state->paid = departure + (bytes * config->byte_time >> 16);
	return departure > now ? departure - now : 0;
}

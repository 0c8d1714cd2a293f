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
};
_Static_assert(sizeof(struct fl_shape) == 16, "known to Go");

/* Who shares it among CPUs holds a lock. */
struct fl_shape_state {
	/* CLOCK_MONOTONIC, ns: when what was sent so far has been paid for. */
	__u64 paid;
};

enum { TCP_HEADER_LENGTH = 12 };

/*
 * The bytes that leave the machine, from the network header. A segment that is
 * cut up later has its headers once; each of its parts will have them.
 */
static __always_inline __u32 bytes_on_the_wire(struct __sk_buff *skb,
					       const struct fl_packet *packet)
{
	__u32 headers = packet->family == 4 ? 20 : 40;
	__u8 offset;

	if (skb->gso_segs <= 1)
		return skb->len;
	if (packet->protocol != IPPROTO_TCP)
		headers += 8;
	else if (!load_net(skb, headers + TCP_HEADER_LENGTH, &offset, 1))
		headers += offset >> 4 << 2;
	return skb->len + (skb->gso_segs - 1) * headers;
}

/* How long the packet has to wait, ns; 0 for one that may go at once. */
static __always_inline __u64 shape(const volatile struct fl_shape *config,
				   struct fl_shape_state *state, __u64 now, __u32 bytes)
{
	__u64 departure = state->paid;

	if (departure + config->burst < now)
		departure = now - config->burst;
	state->paid = departure + (bytes * config->byte_time >> 16);
	return departure > now ? departure - now : 0;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flips the chosen bit of a packet that has come in.
 *
 * Where the checksum is to be wrong the kernel has to look at it. What a device
 * has found right is to be looked at again (bpf_csum_level; bpf_skb_adjust_room
 * has that as an effect too), and what was sent on this machine gets a checksum
 * first (damage.h). The segments that were put together to one packet (GRO), or
 * not yet cut up (veth), have none of their own: the first one is taken away, as
 * the kernel would have discarded it.
 */
#pragma once

/* The rest of a large segment. */
#define SUM_BYTES_MAX 65535

#include "../include/damage.h"
#include "length.h"

/* Nobody fills in the checksum of a received packet, which is there no more. */
static __always_inline enum fl_hit discard_first(struct __sk_buff *skb, const struct fl_place *place)
{
	enum fl_hit hit;

	/* The parts of UDP are one datagram to some receivers. */
	if (place->protocol != IPPROTO_TCP || skb->len > SUM_BYTES_MAX)
		return NOT_HIT;
	hit = cut_first(skb, place);
	if (hit != HIT)
		return hit;
	return write_sum(skb, place) ? RUINED : HIT;
}

/* Where the packet ends by what IP says. */
static __noinline long find_received_end(struct __sk_buff *skb, const struct fl_place *place)
{
	__be16 length;

	if (bpf_skb_load_bytes(skb, place->network + (is_ipv4(skb) ? IPV4_LENGTH : IPV6_PAYLOAD), &length, sizeof(length)))
		return -1;
	return place->network + bpf_ntohs(length) + (is_ipv4(skb) ? 0 : IPV6_HEADER);
}

static __always_inline enum fl_hit damage_received_wrong(struct __sk_buff *skb,
							 const struct fl_place *place,
							 __u32 damage)
{
	long end;

	if (skb->gso_size)
		return discard_first(skb, place);
	bpf_csum_level(skb, BPF_CSUM_LEVEL_RESET);
	/* What fills up a short packet is not summed. */
	end = find_received_end(skb, place);
	if (end < 0 || (skb->len > end && bpf_skb_change_tail(skb, end, 0)))
		return NOT_HIT;
	return damage_wrong(skb, place, damage);
}

/* Which bit is flipped; parsed anew, as at the cgroup's hook. */
__global __u32 choose_received_bit(struct __sk_buff *skb, __u64 seed, __u64 ordinal)
{
	struct fl_payload payload;
	struct fl_packet packet;

	if (parse_packet(skb, &packet) ||
	    !find_payload(skb, &packet, network_length(skb, &packet), &payload))
		return NO_BIT;
	return payload.start * 8 + bit_at(seed, ordinal, payload.length);
}

/* key is that of the packet's decision. */
static __always_inline enum fl_hit damage_received(struct __sk_buff *skb, __u32 key, __u64 seed,
						   __u64 ordinal, __u32 wrong)
{
	struct fl_decision *decision;
	__u32 damage;
	__u8 byte;

	damage = choose_received_bit(skb, seed, ordinal);
	if (damage == NO_BIT || find_place(skb, key))
		return NOT_HIT;
	decision = bpf_map_lookup_elem(&fl_decisions, &key);
	if (!decision)
		return NOT_HIT;
	if (bpf_skb_load_bytes(skb, decision->place.transport + damage / 8, &byte, 1))
		return NOT_HIT;
	if (byte >> (damage & 7) & 1)
		damage |= DAMAGE_WAS_SET;
	if (!wrong)
		return damage_right(skb, &decision->place, damage);
	return damage_received_wrong(skb, &decision->place, damage | DAMAGE_WRONG);
}

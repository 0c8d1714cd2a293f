/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flips the chosen bit of a packet at an interface (tc).
 *
 * With the checksum made right nothing is to be known of it: where the kernel or
 * the device fills it in later, that is done over the damaged payload, and
 * bpf_l4_csum_replace leaves it alone.
 *
 * With the checksum left wrong it has to be there first, and the kernel must
 * not think that it is still to be filled in: receivers on the same machine
 * trust such a packet. No helper says so, but one has it as an effect: when the
 * header from which on the sum is to be made is taken off the front of a packet,
 * the kernel forgets about it (skb_postpull_rcsum, since 4.3). So the headers are
 * taken off and put back (bpf_skb_adjust_room), and the sum is made here.
 */
#pragma once

#include "corrupt.h"

/* The longest that gets a checksum here, with its transport header. */
#ifndef SUM_BYTES_MAX
#define SUM_BYTES_MAX (CORRUPT_BYTES_MAX + 60)
#endif

enum {
	/* Link layer headers are shorter. */
	LINK_HEADER_MAX = 64,
	ETHERNET_HEADER = 14,
	/* What is taken off for a moment: all up to the transport header, and
	 * some of what follows. */
	ROOM = 96,
	IP_HEADERS_MAX = 40,
	/* Bytes that are summed at once, and how often. */
	SUM_CHUNK = 128,
	SUM_CHUNKS = SUM_BYTES_MAX / SUM_CHUNK + 1,
	/* Network and transport header of a packet that is cut; 2^n - 1. */
	HEADERS_MAX = 127,
	/* What bpf_skb_adjust_room takes off at the most, and how often that is
	 * needed for the largest part of a packet. */
	ROOM_MAX = 0xfff,
	ROOMS_MAX = 17,
};

/* Lets the compiler forget what it knows of a size: the verifier has to see it
 * being bounded. */
#define unknown(size) asm volatile("" : "+r"(size))

enum fl_hit {
	HIT,
	/* It is as it was. */
	NOT_HIT,
	/* There was no memory to make a packet of it again. */
	RUINED,
};

/* Whether a packet's IP header begins there: the first bytes of it are expected. */
static __always_inline int network_is_at(struct __sk_buff *skb, __u32 at, const __u32 expected[5])
{
	__u32 there[5];

	if (at > LINK_HEADER_MAX || bpf_skb_load_bytes(skb, at, there, sizeof(there)))
		return 0;
	for (int i = 0; i < 5; i++)
		if (there[i] != expected[i])
			return 0;
	return 1;
}

/* Writes to the decision with that key where the parts of the packet are; returns
 * 0 when they were found. */
__global long find_place(struct __sk_buff *skb, __u32 key)
{
	struct fl_decision *decision;
	struct fl_place *place;
	__u32 expected[5];
	struct fl_packet packet;
	__u32 network, header = 0;
	__be16 length;

	if (parse_packet(skb, &packet))
		return -1;
	/* Nothing says how long the link layer's header is, but what is left
	 * beside what IP says of its own length; Ethernet fills short packets up. */
	if (load_net(skb, packet.family == 4 ? 2 : 4, &length, sizeof(length)))
		return -1;
	network = skb->len - bpf_ntohs(length);
	if (packet.family == 6)
		network -= sizeof(struct ipv6_header);
	if (load_net(skb, 0, expected, sizeof(expected)))
		return -1;
	if (!network_is_at(skb, network, expected))
		network = ETHERNET_HEADER;
	if (!network_is_at(skb, network, expected))
		return -1;
	if (!packet.later_fragment) {
		header = transport_header(skb, &packet);
		if (!header)
			return -1;
	}
	decision = bpf_map_lookup_elem(&fl_decisions, &key);
	if (!decision)
		return -1;
	place = &decision->place;
	place->network = network;
	place->protocol = packet.protocol;
	place->fragment = packet.fragment;
	place->transport = network + packet.transport;
	place->payload = network + packet.transport + header;
	return 0;
}

static __always_inline int is_ipv4(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP);
}

/* Where the checksum is. */
static __always_inline __u32 sum_at(const struct fl_place *place)
{
	switch (place->protocol) {
	case IPPROTO_TCP:
		return place->transport + 16;
	case IPPROTO_UDP:
		return place->transport + 6;
	default: /* ICMP */
		return place->transport + 2;
	}
}

/* Flips the bit where the packet, which may be a fragment, has it. */
static __always_inline long flip(struct __sk_buff *skb, const struct fl_place *place, __u32 damage)
{
	__u32 bit = damage & DAMAGE_BIT;
	__u32 before = place->fragment & ~MORE_FRAGMENTS;
	__u32 at = bit / 8 - before + place->transport;
	__u8 byte;

	if (bit / 8 < before || at >= skb->len)
		return 0;
	if (bpf_skb_load_bytes(skb, at, &byte, 1))
		return -1;
	byte ^= 1 << (bit & 7);
	/* A sum that the device has made of all of a received packet follows it:
	 * otherwise it would tell that the packet is whole. With the checksum
	 * made right the two changes cancel out. */
	return bpf_skb_store_bytes(skb, at, &byte, 1, damage & DAMAGE_WRONG ? BPF_F_RECOMPUTE_CSUM : 0);
}

/* Lets the checksum know of the bit. */
static __always_inline long correct_sum(struct __sk_buff *skb, const struct fl_place *place, __u32 damage)
{
	__u32 bit = damage & DAMAGE_BIT;
	/* Words of the sum are read as they lie in memory. */
	__u32 flipped = 1 << (bit & 15);
	__u32 was = damage & DAMAGE_WAS_SET ? flipped : 0;
	__u64 flags = sizeof(__be16);

	if (place->fragment > MORE_FRAGMENTS)
		return 0;
	/* UDP without a checksum (RFC 768) stays so. */
	if (place->protocol == IPPROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0;
	return bpf_l4_csum_replace(skb, sum_at(place), was,
				   was ^ flipped, flags);
}

static __always_inline enum fl_hit damage_right(struct __sk_buff *skb, const struct fl_place *place, __u32 damage)
{
	if (flip(skb, place, damage))
		return NOT_HIT;
	return correct_sum(skb, place, damage) ? RUINED : HIT;
}

/* Adds the bytes from one offset to another to a sum. */
__global __u32 add_bytes(struct __sk_buff *skb, __u32 from, __u32 to, __u32 sum)
{
	__u32 words[SUM_CHUNK / 4];
	__u32 size;

	for (int i = 0; i < SUM_CHUNKS && to - from >= SUM_CHUNK; i++) {
		if (bpf_skb_load_bytes(skb, from, words, sizeof(words)))
			return sum;
		sum = bpf_csum_diff(0, 0, words, sizeof(words), sum);
		from += SUM_CHUNK;
	}
	size = to - from;
	if (!size)
		return sum;
	/* 1 to SUM_CHUNK, in a way that the verifier of 5.10 sees. */
	size--;
	unknown(size);
	size = (size & (SUM_CHUNK - 1)) + 1;
	__builtin_memset(words, 0, sizeof(words));
	if (!bpf_skb_load_bytes(skb, from, words, size))
		sum = bpf_csum_diff(0, 0, words, sizeof(words), sum);
	return sum;
}

/* Makes the checksum of TCP or UDP. Returns 0 when it stands in the packet. */
static __noinline long write_sum(struct __sk_buff *skb, const struct fl_place *place)
{
	__u32 addresses[8] = {};
	__u32 at = sum_at(place), sum;
	__u16 check = 0;

	if (bpf_skb_store_bytes(skb, at, &check, sizeof(check), 0))
		return -1;
	sum = bpf_htons(place->protocol) + bpf_htons(skb->len - place->transport);
	/* The addresses of the pseudo-header (RFC 768, RFC 8200). */
	if (is_ipv4(skb) ? bpf_skb_load_bytes(skb, place->network + 12, addresses, 8) :
			   bpf_skb_load_bytes(skb, place->network + 8, addresses, 32))
		return -1;
	sum = bpf_csum_diff(0, 0, addresses, sizeof(addresses), sum);
	sum = add_bytes(skb, place->transport, skb->len, sum);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	check = ~sum;
	/* 0 would say that there is none. */
	if (!check)
		check = 0xffff;
	return bpf_skb_store_bytes(skb, at, &check, sizeof(check), 0);
}

/* Makes the kernel forget that the checksum is to be filled in. */
__global enum fl_hit forget_sum(struct __sk_buff *skb, __u32 network)
{
	__u32 least = network + ROOM + IP_HEADERS_MAX, length = skb->len;
	__u8 saved[ROOM];

	if (length < least && bpf_skb_change_tail(skb, least, 0))
		return NOT_HIT;
	if (bpf_skb_load_bytes(skb, network, saved, sizeof(saved)) ||
	    bpf_skb_adjust_room(skb, -ROOM, BPF_ADJ_ROOM_MAC, 0))
		return NOT_HIT;
	if (bpf_skb_adjust_room(skb, ROOM, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, network, saved, sizeof(saved), 0))
		return RUINED;
	if (length < least && bpf_skb_change_tail(skb, length, 0))
		return RUINED;
	return HIT;
}

/* Writes the lengths anew after something was taken off. */
static __always_inline long correct_length(struct __sk_buff *skb, const struct fl_place *place)
{
	__u32 length = skb->len - place->network;
	__be16 before, now;
	long error = 0;

	if (is_ipv4(skb)) {
		now = bpf_htons(length);
		if (bpf_skb_load_bytes(skb, place->network + 2, &before, sizeof(before)))
			return -1;
		error = bpf_l3_csum_replace(skb, place->network + 10, before, now, sizeof(now));
		error |= bpf_skb_store_bytes(skb, place->network + 2, &now, sizeof(now), 0);
	} else {
		now = bpf_htons(length - sizeof(struct ipv6_header));
		error = bpf_skb_store_bytes(skb, place->network + 4, &now, sizeof(now), 0);
	}
	if (place->protocol == IPPROTO_UDP) {
		now = bpf_htons(skb->len - place->transport);
		error |= bpf_skb_store_bytes(skb, place->transport + 4, &now, sizeof(now), 0);
	}
	return error;
}

/* Cuts the end of a packet off, which is one packet to the kernel from then on. */
static __always_inline enum fl_hit cut_end(struct __sk_buff *skb, const struct fl_place *place, __u32 payload)
{
	if (skb->len <= place->payload + payload)
		return HIT;
	if (bpf_skb_change_tail(skb, place->payload + payload, 0))
		return NOT_HIT;
	return correct_length(skb, place) ? RUINED : HIT;
}

/*
 * Of a packet that is to be cut up only the first part is left. What is behind
 * the bytes among which the bit was chosen goes too, as nobody will read it:
 * where segments are that large, packets can't be enlarged any more.
 */
static __noinline enum fl_hit damage_wrong(struct __sk_buff *skb, const struct fl_place *place, __u32 damage)
{
	__u32 payload = CORRUPT_BYTES_MAX;
	enum fl_hit hit;

	/* Pieces of a datagram have their checksum, and ICMP always has. */
	if (!place->fragment &&
	    (place->protocol == IPPROTO_TCP || place->protocol == IPPROTO_UDP)) {
		if (place->transport >= ROOM)
			return NOT_HIT;
		if (skb->gso_size && skb->gso_size < payload)
			payload = skb->gso_size;
		hit = cut_end(skb, place, payload);
		if (hit != HIT)
			return hit;
		hit = forget_sum(skb, place->network);
		if (hit != HIT)
			return hit;
		if (write_sum(skb, place))
			return RUINED;
	}
	return flip(skb, place, damage) ? NOT_HIT : HIT;
}

/*
 * Takes the first part off a segment that is to be cut up. Whoever cuts up what
 * is left fills in the checksums (tcp4_gso_segment, tcp6_gso_segment).
 */
static __noinline enum fl_hit cut_first(struct __sk_buff *skb, const struct fl_place *place)
{
	__u32 size = skb->gso_size, left = size;
	__u32 length = place->payload - place->network;
	__u8 headers[HEADERS_MAX + 1];
	__be32 sequence;

	unknown(length);
	length &= HEADERS_MAX;
	/* With less the kernel would not forget about the checksum. */
	if (length < IP_HEADERS_MAX || size <= HEADERS_MAX)
		return NOT_HIT;
	__builtin_memset(headers, 0, sizeof(headers));
	if (bpf_skb_load_bytes(skb, place->network, headers, length))
		return NOT_HIT;
	for (int i = 0; i < ROOMS_MAX; i++) {
		__u32 step = left > ROOM_MAX ? ROOM_MAX : left;

		if (!step)
			break;
		if (bpf_skb_adjust_room(skb, -(__s32)step, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return i ? RUINED : NOT_HIT;
		left -= step;
	}
	if (bpf_skb_store_bytes(skb, place->network, headers, length, 0) ||
	    bpf_skb_load_bytes(skb, place->transport + 4, &sequence, sizeof(sequence)))
		return RUINED;
	sequence = bpf_htonl(bpf_ntohl(sequence) + size);
	if (bpf_skb_store_bytes(skb, place->transport + 4, &sequence, sizeof(sequence), 0) ||
	    correct_length(skb, place))
		return RUINED;
	return HIT;
}

/* The rest of a segment, without its first part. */
static __always_inline enum fl_hit cut_rest(struct __sk_buff *skb, const struct fl_place *place)
{
	enum fl_hit hit = cut_first(skb, place);

	if (hit != HIT || skb->len - place->payload > skb->gso_size)
		return hit;
	/* One part is left: nobody will cut it up. */
	if (bpf_skb_change_tail(skb, skb->len, 0) || write_sum(skb, place))
		return RUINED;
	return HIT;
}

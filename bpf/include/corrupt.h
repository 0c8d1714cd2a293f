/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which bit of a packet is flipped. Only the payload of TCP, UDP and ICMP is
 * touched: a damaged address or port would make the packet somebody else's.
 * faults/dice has the same in Go.
 */
#pragma once

#include "abi.h"
#include "decision.h"
#include "dice.h"
#include "packet.h"

enum {
	/* In which the bit lies: the rest of a packet need not be looked at. */
	CORRUPT_BYTES_MAX = 8192,
	UDP_HEADER = 8,
	ICMP_HEADER = 8,
	TCP_DATA_OFFSET = 12,
};

/*
 * fl_decision.damage. The bit is counted from the transport header. It is known
 * beforehand whether it was set, so that a datagram that leaves in pieces has
 * its checksum made right in the first, whichever is damaged.
 */
enum {
	DAMAGE_BIT = (1 << 20) - 1,
	DAMAGE_FAULT_SHIFT = 20,
	DAMAGE_WAS_SET = 1 << 30,
	DAMAGE_WRONG = (int)(1U << 31),
};
_Static_assert(FAULTS_MAX << DAMAGE_FAULT_SHIFT <= DAMAGE_WAS_SET, "each has its place");
_Static_assert((CORRUPT_BYTES_MAX + 60) * 8 <= DAMAGE_BIT, "the last bit");

/* The bits are drawn apart from the dice of the same seed. */
#define CORRUPT_SALT 0xa0761d6478bd642fULL

/* No bit: above all of DAMAGE_BIT and DAMAGE_WAS_SET. */
#define NO_BIT (~0U)

struct fl_payload {
	/* From the transport header. */
	__u32 start;
	/* Of what can be hit. */
	__u32 length;
};

/* Header length by protocol; 0 for those that are not known. */
static __always_inline __u32 transport_header(struct __sk_buff *skb,
					      const struct fl_packet *packet)
{
	__u8 offset;

	switch (packet->protocol) {
	case IPPROTO_TCP:
		if (load_net(skb, packet->transport + TCP_DATA_OFFSET, &offset, 1))
			return 0;
		return offset >> 4 << 2;
	case IPPROTO_UDP:
		return UDP_HEADER;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return ICMP_HEADER;
	default:
		return 0;
	}
}

/*
 * Returns whether the packet, of that many bytes from its network header on, has
 * a payload. Of one that is cut up later only the first part is hit, as netem
 * does it.
 */
static __always_inline int find_payload(struct __sk_buff *skb,
					const struct fl_packet *packet, __u32 size,
					struct fl_payload *payload)
{
	__u32 header, before, length;

	if (packet->fragment)
		return 0;
	header = transport_header(skb, packet);
	before = packet->transport + header;
	if (!header || size <= before)
		return 0;
	length = size - before;
	if (skb->gso_size && length > skb->gso_size)
		length = skb->gso_size;
	if (length > CORRUPT_BYTES_MAX)
		length = CORRUPT_BYTES_MAX;
	payload->start = header;
	payload->length = length;
	return 1;
}

/* The bit of the payload of the event with that ordinal. */
static __always_inline __u32 bit_at(__u64 seed, __u64 ordinal, __u32 length)
{
	__u64 random = random_at(seed ^ CORRUPT_SALT, ordinal, 0);

	return random * (length * 8) >> 32;
}

/* Adds to what was decided about a packet which bit of it is flipped. */
static __always_inline void decide_damage(struct __sk_buff *skb, __u32 run, __u32 fault,
					  __u32 bit, __u32 wrong)
{
	struct fl_decision *decision = decision_of(skb->mark, run);

	if (!decision)
		return;
	decision->damage = bit | fault << DAMAGE_FAULT_SHIFT;
	if (wrong)
		decision->damage |= DAMAGE_WRONG;
}

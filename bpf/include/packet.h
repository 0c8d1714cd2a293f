/* SPDX-License-Identifier: GPL-2.0-only */
/* What the filters want to know of a packet. */
#pragma once

#include "abi.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct fl_address {
	/* IPv4 is kept as ::ffff:a.b.c.d, so that one trie serves both. */
	__u8 bytes[16];
};

struct fl_packet {
	struct fl_address source;
	struct fl_address destination;
	/* Host byte order; 0 for protocols without ports. */
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 tcp_flags;
	/* Not the first fragment: it has no transport header. */
	__u8 later_fragment;
	__u8 family; /* 4 or 6 */
	/* Where the transport header begins, or what a later fragment has in its
	 * place; counted from the network header. */
	__u16 transport;
	/* Of a fragment: bytes of the datagram before it, in eights, and
	 * MORE_FRAGMENTS. 0: the packet is whole. */
	__u16 fragment;
};

enum {
	TCP_FLAG_SYN = 0x02,
	/* Extension headers of IPv6 that are followed; more are not matched. */
	IPV6_EXTENSIONS = 8,
	IP_OFFSET_MASK = 0x1fff,
	IPV6_OFFSET_MASK = 0xfff8,
	IP_MORE_FRAGMENTS = 0x2000,
	MORE_FRAGMENTS = 1,
};

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 source;
	__be32 destination;
};
_Static_assert(sizeof(struct ipv4_header) == 20, "RFC 791");

struct ipv6_header {
	__be32 version_class_flow;
	__be16 payload;
	__u8 next;
	__u8 hop_limit;
	struct fl_address source;
	struct fl_address destination;
};
_Static_assert(sizeof(struct ipv6_header) == 40, "RFC 8200");

struct ipv6_extension {
	__u8 next;
	__u8 length; /* in 8 bytes after the first 8; AH: in 4 bytes, minus 2 */
	__be16 offset; /* of a fragment header */
};

static __always_inline long load_net(struct __sk_buff *skb, __u32 offset,
				     void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, size,
					   BPF_HDR_START_NET);
}

static __always_inline void map_ipv4(struct fl_address *to, __be32 from)
{
	__builtin_memset(to, 0, 10);
	to->bytes[10] = 0xff;
	to->bytes[11] = 0xff;
	__builtin_memcpy(&to->bytes[12], &from, 4);
}

/* Fills in the transport header; returns 0 when it could be read. */
static __always_inline long parse_transport(struct __sk_buff *skb, __u32 offset,
					    struct fl_packet *packet)
{
	__be16 ports[2];

	packet->transport = offset;
	if (packet->later_fragment)
		return 0;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return 0;
	if (load_net(skb, offset, ports, sizeof(ports)))
		return -1;
	packet->source_port = bpf_ntohs(ports[0]);
	packet->destination_port = bpf_ntohs(ports[1]);
	if (packet->protocol == IPPROTO_TCP &&
	    load_net(skb, offset + 13, &packet->tcp_flags, 1))
		return -1;
	return 0;
}

static __always_inline long parse_ipv4(struct __sk_buff *skb,
				       struct fl_packet *packet)
{
	struct ipv4_header ip;

	if (load_net(skb, 0, &ip, sizeof(ip)))
		return -1;
	packet->family = 4;
	packet->protocol = ip.protocol;
	packet->fragment = (bpf_ntohs(ip.fragment) & IP_OFFSET_MASK) * 8 |
			   ((bpf_ntohs(ip.fragment) & IP_MORE_FRAGMENTS) ?
				    MORE_FRAGMENTS : 0);
	packet->later_fragment = packet->fragment > MORE_FRAGMENTS;
	map_ipv4(&packet->source, ip.source);
	map_ipv4(&packet->destination, ip.destination);
	return parse_transport(skb, (ip.version_ihl & 0xf) * 4, packet);
}

static __always_inline long parse_ipv6(struct __sk_buff *skb,
				       struct fl_packet *packet)
{
	struct ipv6_extension extension;
	struct ipv6_header ip;
	__u32 offset = sizeof(ip);
	__u8 next;

	if (load_net(skb, 0, &ip, sizeof(ip)))
		return -1;
	packet->family = 6;
	packet->source = ip.source;
	packet->destination = ip.destination;
	next = ip.next;
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH &&
		    next != IPPROTO_DSTOPTS)
			break;
		if (load_net(skb, offset, &extension, sizeof(extension)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			/* The bits are where ours are (RFC 8200). */
			packet->fragment = bpf_ntohs(extension.offset) &
					   (IPV6_OFFSET_MASK | MORE_FRAGMENTS);
			packet->later_fragment = packet->fragment > MORE_FRAGMENTS;
			offset += 8;
		} else if (next == IPPROTO_AH) {
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
		if (packet->later_fragment)
			break;
	}
	packet->protocol = next;
	return parse_transport(skb, offset, packet);
}

/* Returns 0 when the packet is IP and its headers could be read. */
static __always_inline long parse_packet(struct __sk_buff *skb,
					 struct fl_packet *packet)
{
	__builtin_memset(packet, 0, sizeof(*packet));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, packet);
	return -1;
}

/*
 * Whether a packet is a fragment other than the first, of which there may be many:
 * most packets pay for two bytes. What can't be read is none.
 */
static __always_inline int is_later_fragment(struct __sk_buff *skb)
{
	struct fl_packet packet;
	__be16 fragment;
	__u8 next;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return !load_net(skb, 6, &fragment, sizeof(fragment)) &&
		       bpf_ntohs(fragment) & IP_OFFSET_MASK;
	if (load_net(skb, 6, &next, sizeof(next)) || next == IPPROTO_TCP || next == IPPROTO_UDP)
		return 0;
	return !parse_packet(skb, &packet) && packet.later_fragment;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/* The filter of a network fault: which packets of the target count. */
#pragma once

#include "packet.h"

enum fl_filter_flag {
	FILTER_PEERS = 1 << 0,
	FILTER_EXCLUDED_PEERS = 1 << 1,
	FILTER_PORTS = 1 << 2,
	FILTER_LOCAL_PORTS = 1 << 3,
	/* Packets without ports don't match. */
	FILTER_NEEDS_PORTS = 1 << 8,
	FILTER_EXEMPT_SSH = 1 << 4,
	FILTER_EXEMPT = 1 << 5,
	/* TCP packets with, or without, SYN. */
	FILTER_NEW = 1 << 6,
	FILTER_ESTABLISHED = 1 << 7,
};

enum fl_filter_protocol {
	FILTER_ANY_PROTOCOL = 0,
	FILTER_TCP = 1,
	FILTER_UDP = 2,
	FILTER_ICMP = 3,
};

struct fl_filter {
	__u32 flags; /* enum fl_filter_flag */
	__u32 protocol; /* enum fl_filter_protocol */
};
_Static_assert(sizeof(struct fl_filter) == 8, "known to Go");

enum {
	PEERS_MAX = 65536,
	EXEMPT_MAX = 256,
	SSH_PORT = 22,
	/* Two bitmaps of 65536 bits: ports of the peer, then local ports. */
	PORT_WORDS = 1024,
};

struct fl_prefix {
	__u32 length; /* in bits, of the 128 */
	struct fl_address address;
};

struct fl_endpoint {
	struct fl_address address;
	__u16 port; /* 0: every port */
	__u16 pad;
};
_Static_assert(sizeof(struct fl_endpoint) == 20, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PEERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_prefix);
	__type(value, __u8);
} fl_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PEERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_prefix);
	__type(value, __u8);
} fl_excluded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EXEMPT_MAX);
	__type(key, struct fl_endpoint);
	__type(value, __u8);
} fl_exempt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} fl_ports SEC(".maps");

static __always_inline int port_listed(__u32 first_word, __u16 port)
{
	__u32 word = first_word + (port >> 6);
	__u64 *bits = bpf_map_lookup_elem(&fl_ports, &word);

	return bits && (*bits >> (port & 63) & 1);
}

static __always_inline int prefix_listed(void *trie,
					 const struct fl_address *address)
{
	struct fl_prefix key = { .length = 128, .address = *address };

	return bpf_map_lookup_elem(trie, &key) != 0;
}

static __always_inline int exempt(const volatile struct fl_filter *filter,
				  const struct fl_address *peer, __u16 peer_port,
				  __u16 local_port, __u8 protocol)
{
	if (filter->flags & FILTER_EXEMPT_SSH && protocol == IPPROTO_TCP &&
	    (peer_port == SSH_PORT || local_port == SSH_PORT))
		return 1;
	if (filter->flags & FILTER_EXEMPT) {
		struct fl_endpoint key = { .address = *peer };

		if (bpf_map_lookup_elem(&fl_exempt, &key))
			return 1;
		key.port = peer_port;
		return bpf_map_lookup_elem(&fl_exempt, &key) != 0;
	}
	return 0;
}

static __always_inline int protocol_matches(__u32 wanted, __u8 protocol)
{
	switch (wanted) {
	case FILTER_TCP:
		return protocol == IPPROTO_TCP;
	case FILTER_UDP:
		return protocol == IPPROTO_UDP;
	case FILTER_ICMP:
		return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
	default:
		return 1;
	}
}

/*
 * egress says which end is the peer. Later fragments never get here with a
 * port filter set: packets are seen before they are cut and after they are put
 * together, but for raw sockets that send fragments of their own.
 */
static __always_inline int filter_matches(const volatile struct fl_filter *filter,
					  const struct fl_packet *packet,
					  int egress)
{
	const struct fl_address *peer =
		egress ? &packet->destination : &packet->source;
	__u16 peer_port = egress ? packet->destination_port : packet->source_port;
	__u16 local_port = egress ? packet->source_port : packet->destination_port;
	int has_ports = (packet->protocol == IPPROTO_TCP ||
			 packet->protocol == IPPROTO_UDP) &&
			!packet->later_fragment;

	if (!protocol_matches(filter->protocol, packet->protocol))
		return 0;
	if (filter->flags & (FILTER_NEW | FILTER_ESTABLISHED)) {
		int opens = (packet->tcp_flags & TCP_FLAG_SYN) != 0;

		if (packet->protocol != IPPROTO_TCP || !has_ports)
			return 0;
		if (opens != !!(filter->flags & FILTER_NEW))
			return 0;
	}
	if (filter->flags & FILTER_NEEDS_PORTS && !has_ports)
		return 0;
	if (filter->flags & FILTER_PORTS && has_ports &&
	    !port_listed(0, peer_port))
		return 0;
	if (filter->flags & FILTER_LOCAL_PORTS && has_ports &&
	    !port_listed(PORT_WORDS, local_port))
		return 0;
	if (filter->flags & FILTER_PEERS && !prefix_listed(&fl_peers, peer))
		return 0;
	if (filter->flags & FILTER_EXCLUDED_PEERS &&
	    prefix_listed(&fl_excluded, peer))
		return 0;
	return !exempt(filter, peer, peer_port, local_port, packet->protocol);
}

/* SPDX-License-Identifier: GPL-2.0-only */
/* Whose a packet is that has just come in: the cgroup of the socket it is for. */
#pragma once

#include "../include/packet.h"
#include "../include/sock.h"
#include "../include/targets.h"
#include "cgroup.h"

enum {
	CURRENT_NETNS = -1, /* BPF_F_CURRENT_NETNS */
	STATE_TIME_WAIT = 6, /* BPF_TCP_TIME_WAIT */
	STATE_NEW_SYN_RECV = 12, /* BPF_TCP_NEW_SYN_RECV */
};

/* linux/bpf.h; network byte order, as in the packet. */
struct bpf_sock_tuple {
	union {
		struct {
			__be32 source;
			__be32 destination;
			__be16 source_port;
			__be16 destination_port;
		} ipv4;
		struct {
			struct fl_address source;
			struct fl_address destination;
			__be16 source_port;
			__be16 destination_port;
		} ipv6;
	};
};
_Static_assert(sizeof(struct bpf_sock_tuple) == 36, "linux/bpf.h");

/* Packets that the filter matches and nobody is known to own. */
struct fl_in_strangers {
	/* TCP or UDP, and there is no socket for it. */
	__u64 no_socket;
	/* For a connection in TIME_WAIT: that has no cgroup any more. */
	__u64 time_wait;
	/* ICMP and others that no socket can be looked up for. */
	__u64 no_ports;
};
_Static_assert(sizeof(struct fl_in_strangers) == 24, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_in_strangers);
} fl_in_strangers SEC(".maps");

#define count_stranger(field)                                                \
	do {                                                                 \
		__u32 stranger_key = 0;                                      \
		struct fl_in_strangers *stranger =                           \
			bpf_map_lookup_elem(&fl_in_strangers, &stranger_key); \
		if (stranger)                                                \
			__sync_fetch_and_add(&stranger->field, 1);           \
	} while (0)

/* Returns the size that tells the helpers the family. */
static __always_inline __u32 to_tuple(const struct fl_packet *packet,
				      struct bpf_sock_tuple *tuple)
{
	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (packet->family == 4) {
		__builtin_memcpy(&tuple->ipv4.source, &packet->source.bytes[12], 4);
		__builtin_memcpy(&tuple->ipv4.destination,
				 &packet->destination.bytes[12], 4);
		tuple->ipv4.source_port = bpf_htons(packet->source_port);
		tuple->ipv4.destination_port = bpf_htons(packet->destination_port);
		return sizeof(tuple->ipv4);
	}
	tuple->ipv6.source = packet->source;
	tuple->ipv6.destination = packet->destination;
	tuple->ipv6.source_port = bpf_htons(packet->source_port);
	tuple->ipv6.destination_port = bpf_htons(packet->destination_port);
	return sizeof(tuple->ipv6);
}

/* Is the socket in one of the cgroups? *id is its own cgroup's then. */
static __always_inline int in_target(struct sock *socket, __u32 levels, __u64 *id)
{
	struct cgroup *cgroup = cgroup_of(socket);
	int deepest;

	if (!cgroup)
		return 0;
	deepest = cgroup_level(cgroup);
	for (int level = 1; level < LEVELS_MAX; level++) {
		__u64 ancestor;

		if (!(levels >> level & 1) || level > deepest)
			continue;
		ancestor = ancestor_id(cgroup, level);
		if (ancestor && bpf_map_lookup_elem(&fl_targets, &ancestor)) {
			*id = cgroup_id(cgroup);
			return 1;
		}
	}
	return 0;
}

/* Of the sockets of TCP two are no full ones, and have no cgroup. */
static __always_inline struct sock *full(struct bpf_sock *socket, __u32 state)
{
	struct sock *found = untyped(socket);

	switch (state) {
	case STATE_TIME_WAIT:
		count_stranger(time_wait);
		return 0;
	case STATE_NEW_SYN_RECV: {
		/* A connection that is being made is its listener's. */
		const struct sock_common *request = (void *)found;

		return (void *)read_u64(&request->skc_listener);
	}
	default:
		return found;
	}
}

/*
 * Looks the socket up in the packet's own network namespace, as the protocol
 * will do when the packet gets there. levels has bit n set when some target is
 * at level n of the hierarchy.
 */
static __always_inline int for_target(struct __sk_buff *skb,
				      const struct fl_packet *packet,
				      __u32 levels, __u64 *cgroup)
{
	struct bpf_sock_tuple tuple;
	struct bpf_sock *socket;
	struct sock *found;
	__u32 size = to_tuple(packet, &tuple);
	__u32 state = 0;
	int is;

	if (packet->protocol == IPPROTO_TCP) {
		socket = bpf_skc_lookup_tcp(skb, &tuple, size, CURRENT_NETNS, 0);
		/* Read here, where the verifier knows one type of it. */
		if (socket)
			state = socket->state;
	} else if (packet->protocol == IPPROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, size, CURRENT_NETNS, 0);
	} else {
		count_stranger(no_ports);
		return 0;
	}
	if (!socket) {
		count_stranger(no_socket);
		return 0;
	}
	found = full(socket, state);
	is = found && in_target(found, levels, cgroup);
	bpf_sk_release(socket);
	return is;
}

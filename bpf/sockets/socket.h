/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the filter wants to know of a socket and of the address that a call gives. It
 * is put as a packet that the socket would send.
 */
#pragma once

#include "../include/filter.h"
#include "../include/read.h"
#include "../include/sockaddr.h"

/* Where things are in the running kernel's structs, bytes. */
struct fl_socket_layout {
	__u32 socket_sock; /* struct socket */
	__u32 family; /* struct sock */
	__u32 protocol;
	__u32 local_port; /* host byte order */
	__u32 peer_port; /* network byte order */
	__u32 peer_ipv4;
	__u32 peer_ipv6;
	__u32 message_name; /* struct msghdr */
};
_Static_assert(sizeof(struct fl_socket_layout) == 32, "known to Go");

struct fl_socket_config {
	/* Bit n: sockets of family n (AF_*). */
	__u64 families;
	struct fl_filter filter;
	struct fl_socket_layout layout;
};
_Static_assert(sizeof(struct fl_socket_config) == 48, "known to Go");

volatile const struct fl_socket_config fl_socket_config;

/* struct sockaddr_in and sockaddr_in6. */
struct socket_address {
	__u16 family;
	__be16 port;
	__be32 ipv4; /* IPv6: flow information */
	struct fl_address ipv6;
};
_Static_assert(sizeof(struct socket_address) == 24, "linux/in6.h");

static __always_inline int family_wanted(__u32 family)
{
	return family < 64 && fl_socket_config.families >> family & 1;
}

/* The socket itself: its protocol, its port and the peer that it is connected to. */
static __always_inline void describe_sock(const void *sock, __u16 family,
					  struct fl_packet *packet)
{
	const volatile struct fl_socket_layout *layout = &fl_socket_config.layout;

	__builtin_memset(packet, 0, sizeof(*packet));
	packet->family = version_of(family);
	if (!packet->family)
		return;
	packet->protocol = protocol_of(load_short(sock + layout->protocol));
	packet->source_port = load_short(sock + layout->local_port);
	packet->destination_port = bpf_ntohs(load_short(sock + layout->peer_port));
	if (packet->family == 4)
		map_ipv4(&packet->destination, load_half(sock + layout->peer_ipv4));
	else
		bpf_probe_read_kernel(&packet->destination, sizeof(packet->destination),
				      sock + layout->peer_ipv6);
}

/* Reads an address that a call gives. Returns 0 when it is one of IP. */
static __always_inline int read_address(const void *at, struct fl_address *address,
					__u16 *port)
{
	struct socket_address given = {};

	/* One of IPv4 is shorter, and what is read of it is there. */
	if (bpf_probe_read_kernel(&given, 8, at))
		return -1;
	*port = bpf_ntohs(given.port);
	if (given.family == AF_INET) {
		map_ipv4(address, given.ipv4);
		return 0;
	}
	if (given.family != AF_INET6)
		return -1;
	return bpf_probe_read_kernel(address, sizeof(*address), at + 8);
}

//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs at the socket hooks of the target's cgroups that lead what is sent to name
 * servers to a resolver of ours, on loopback of the same network namespace, and put the
 * servers' addresses back into what comes from there. Each server has ports of the
 * resolver of its own, by which that knows whom to ask.
 */
#include "../include/filter.h"
#include "../include/lease.h"
#include "../include/sockaddr.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	/* A host knows three (resolv.conf(5)). */
	SERVERS_MAX = 8,
};

/* What the resolver listens to in a network namespace. */
enum fl_reach {
	REACH_IPV4 = 1 << 0,
	REACH_IPV6 = 1 << 1,
};

struct fl_dns_config {
	struct fl_filter filter;
	/* The resolver's, network byte order, on the loopback addresses. */
	__be16 ports[SERVERS_MAX];
	/* Namespaces can't be told apart: what it listens to in all of them. */
	__u32 everywhere; /* enum fl_reach */
	__u32 pad;
};
_Static_assert(sizeof(struct fl_dns_config) == 32, "known to Go");

volatile const struct fl_dns_config fl_dns_config;

/* By cookie: where the resolver listens, and to what (enum fl_reach). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} fl_namespaces SEC(".maps");

struct fl_server {
	struct fl_address address;
	__be16 port; /* 0: none yet */
	__u16 pad;
};

/* The servers that were met. None is ever taken away. */
struct fl_servers {
	struct bpf_spin_lock lock;
	struct fl_server server[SERVERS_MAX];
};
_Static_assert(sizeof(struct fl_servers) == 4 + SERVERS_MAX * 20, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_servers);
} fl_servers SEC(".maps");

static __always_inline struct fl_servers *all_servers(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&fl_servers, &key);
}

static __always_inline int is_server(const struct fl_server *server,
				     const struct fl_address *address, __be16 port)
{
	const __u32 *theirs = (const __u32 *)server->address.bytes;
	const __u32 *given = (const __u32 *)address->bytes;

	return server->port == port && theirs[0] == given[0] && theirs[1] == given[1] &&
	       theirs[2] == given[2] && theirs[3] == given[3];
}

/* Which of the resolver's ports are a server's; -1 if all are others'. */
static __always_inline int place_of(struct fl_servers *servers,
				    const struct fl_address *address, __be16 port)
{
	int place = -1;

	bpf_spin_lock(&servers->lock);
	for (int i = 0; i < SERVERS_MAX; i++) {
		if (!servers->server[i].port) {
			servers->server[i].address = *address;
			servers->server[i].port = port;
		}
		if (is_server(&servers->server[i], address, port)) {
			place = i;
			break;
		}
	}
	bpf_spin_unlock(&servers->lock);
	return place;
}

/* What the resolver listens to where a socket is. */
static __always_inline __u32 reach_of(struct bpf_sock_addr *context)
{
	__u64 cookie;
	__u32 *reach;

	if (fl_dns_config.everywhere)
		return fl_dns_config.everywhere;
	cookie = bpf_get_netns_cookie(context);
	reach = bpf_map_lookup_elem(&fl_namespaces, &cookie);
	return reach ? *reach : 0;
}

static __always_inline int is_mapped(const struct bpf_sock_addr *context)
{
	return !context->user_ip6[0] && !context->user_ip6[1] &&
	       context->user_ip6[2] == bpf_htonl(0xffff);
}

enum {
	LOOPBACK = 0x7f000001,
};

/*
 * Leads what goes to a server to the resolver. What can't be, and would have been, counts
 * as chosen and not hit.
 */
static __always_inline int lead(struct bpf_sock_addr *context, int ipv6)
{
	struct fl_packet packet = {};
	struct fl_servers *servers;
	__u64 now;
	__be16 port = context->user_port;
	int place, native = ipv6 && !is_mapped(context);

	if (!lease_start(&now))
		return ALLOW;
	packet.protocol = protocol_of(context->protocol);
	packet.family = version_of(context->family);
	packet.destination_port = bpf_ntohs(port);
	given_address(context, ipv6, &packet.destination);
	if (!filter_matches(&fl_dns_config.filter, &packet, 1))
		return ALLOW;
	servers = all_servers();
	/* A socket that is bound to an interface does not get to loopback. */
	if (!servers || context->sk->bound_dev_if ||
	    !(reach_of(context) & (native ? REACH_IPV6 : REACH_IPV4)))
		goto missed;
	place = place_of(servers, &packet.destination, port);
	if (place < 0 || place >= SERVERS_MAX)
		goto missed;
	context->user_port = fl_dns_config.ports[place];
	if (native) {
		context->user_ip6[0] = 0;
		context->user_ip6[1] = 0;
		context->user_ip6[2] = 0;
		context->user_ip6[3] = bpf_htonl(1);
	} else if (ipv6) {
		context->user_ip6[3] = bpf_htonl(LOOPBACK);
	} else {
		context->user_ip4 = bpf_htonl(LOOPBACK);
	}
	return ALLOW;
missed:
	count(chosen);
	return ALLOW;
}

/*
 * Puts a server's address in the place of the resolver's. Without a lease too: answers
 * may still be on their way.
 */
static __always_inline int put_back(struct bpf_sock_addr *context, int ipv6)
{
	struct fl_servers *servers = all_servers();
	__be16 port = context->user_port;
	struct fl_server server = {};
	const __u32 *words = (const __u32 *)server.address.bytes;

	if (!servers)
		return ALLOW;
	if (!ipv6 && context->user_ip4 != bpf_htonl(LOOPBACK))
		return ALLOW;
	if (ipv6 && is_mapped(context) && context->user_ip6[3] != bpf_htonl(LOOPBACK))
		return ALLOW;
	if (ipv6 && !is_mapped(context) &&
	    (context->user_ip6[0] || context->user_ip6[1] || context->user_ip6[2] ||
	     context->user_ip6[3] != bpf_htonl(1)))
		return ALLOW;
	for (int i = 0; i < SERVERS_MAX; i++) {
		if (fl_dns_config.ports[i] != port)
			continue;
		bpf_spin_lock(&servers->lock);
		server = servers->server[i];
		bpf_spin_unlock(&servers->lock);
		break;
	}
	if (!server.port)
		return ALLOW;
	context->user_port = server.port;
	if (ipv6) {
		context->user_ip6[0] = words[0];
		context->user_ip6[1] = words[1];
		context->user_ip6[2] = words[2];
		context->user_ip6[3] = words[3];
	} else {
		context->user_ip4 = words[3];
	}
	return ALLOW;
}

#define AT_BOTH(hook, body)                              \
	SEC("cgroup/" #hook "4")                         \
	int fl_##hook##4(struct bpf_sock_addr *context)  \
	{                                                \
		return body(context, 0);                 \
	}                                                \
	SEC("cgroup/" #hook "6")                         \
	int fl_##hook##6(struct bpf_sock_addr *context)  \
	{                                                \
		return body(context, 1);                 \
	}

AT_BOTH(connect, lead)
AT_BOTH(sendmsg, lead)
AT_BOTH(recvmsg, put_back)
AT_BOTH(getpeername, put_back)

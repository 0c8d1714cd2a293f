//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs where the kernel asks whether a socket call may be carried out: at the hooks
 * of the security modules, which are asked for every process, and at the hooks of the
 * target's own cgroups, which are for sockets that were made there.
 */
#include "../include/hooks.h"
#include "socket.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	COMMAND_SIZE = 16, /* TASK_COMM_LEN */
};

/* A sample of the calls that were hit. */
struct fl_socket_event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u64 cgroup; /* of the process */
	__u32 pid;
	__u32 operation;
	__u32 error; /* errno; 0: it was only observed */
	char command[COMMAND_SIZE];
	struct fl_packet packet;
};
_Static_assert(sizeof(struct fl_socket_event) == 88, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} fl_events SEC(".maps");

static __always_inline void sample_socket(const struct fl_packet *packet, __u32 error, __u64 now)
{
	struct fl_socket_event *event = bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = now;
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->operation = fl_hook.operation;
	event->error = error;
	event->packet = *packet;
	bpf_get_current_comm(event->command, sizeof(event->command));
	bpf_ringbuf_submit(event, 0);
}

/* Decides about a call by what it would send: the errno, or 0. */
static __always_inline __u32 decide(const struct fl_packet *packet, __u64 start, __u64 now)
{
	__u32 error;
	int sampled;

	if (!filter_matches(&fl_socket_config.filter, packet, 1))
		return 0;
	error = decide_failure(start, now, &sampled);
	if (sampled)
		sample_socket(packet, error, now);
	return error;
}

/* What a call gives beside the socket. */
enum given {
	NOTHING,
	/* The address of the peer; the address that the socket is to get. */
	PEER,
	OWN,
	/* A message, that may have the address of a peer. */
	MESSAGE,
};

/* (struct socket *, ...) */
static __always_inline int decide_socket(const __u64 *arguments, enum given given)
{
	const volatile struct fl_socket_layout *layout = &fl_socket_config.layout;
	const void *sock, *address = 0;
	struct fl_packet packet;
	__u64 now, start = concerned(&now);
	__u16 family;

	if (!start)
		return 0;
	sock = load_pointer((const void *)arguments[0] + layout->socket_sock);
	family = load_short(sock + layout->family);
	if (!sock || !family_wanted(family))
		return 0;
	describe_sock(sock, family, &packet);
	if (packet.family) {
		/* TCP takes no notice of an address in a message. */
		if (given == MESSAGE && packet.protocol != IPPROTO_TCP)
			address = load_pointer((const void *)arguments[1] + layout->message_name);
		if (given == PEER || given == OWN)
			address = (const void *)arguments[1];
		if (given == OWN) {
			struct fl_address own;

			if (read_address(address, &own, &packet.source_port))
				return 0;
		} else if (address && read_address(address, &packet.destination,
						   &packet.destination_port)) {
			/* A connection that is to be given up (AF_UNSPEC). */
			return 0;
		}
	}
	return negative(decide(&packet, start, now));
}

AT_HOOK(plain, decide_socket(arguments, NOTHING))
AT_HOOK(peer, decide_socket(arguments, PEER))
AT_HOOK(own, decide_socket(arguments, OWN))
AT_HOOK(message, decide_socket(arguments, MESSAGE))

/* linux/bpf.h. */
struct bpf_sockopt {
	struct bpf_sock *sk;
	void *optval;
	void *optval_end;
	__s32 level;
	__s32 optname;
	__s32 optlen;
	__s32 retval;
};
_Static_assert(sizeof(struct bpf_sockopt) == 40, "linux/bpf.h");

static __always_inline int refuse(__u32 error)
{
	if (!error)
		return ALLOW;
	count(hit);
	bpf_set_retval(-(int)error);
	return REFUSE;
}

/* The kernel runs all programs of a hook, and here one after the other decides, as at
 * the other hooks: what has failed is nobody's any more. */
static __always_inline int failed_already(void)
{
	return bpf_get_retval() != 0;
}

static __always_inline int decide_address(struct bpf_sock_addr *context, int own, int ipv6)
{
	__u64 now, start = lease_start(&now);
	struct fl_packet packet = {};
	__u16 port;

	if (!start || failed_already() || !family_wanted(context->family))
		return ALLOW;
	packet.family = version_of(context->family);
	packet.protocol = protocol_of(context->protocol);
	port = bpf_ntohs(context->user_port);
	if (own) {
		packet.source_port = port;
	} else {
		packet.source_port = context->sk->src_port;
		packet.destination_port = port;
		given_address(context, ipv6, &packet.destination);
	}
	return refuse(decide(&packet, start, now));
}

SEC("cgroup/connect4")
int fl_connect4(struct bpf_sock_addr *context)
{
	return decide_address(context, 0, 0);
}

SEC("cgroup/connect6")
int fl_connect6(struct bpf_sock_addr *context)
{
	return decide_address(context, 0, 1);
}

SEC("cgroup/bind4")
int fl_bind4(struct bpf_sock_addr *context)
{
	return decide_address(context, 1, 0);
}

SEC("cgroup/bind6")
int fl_bind6(struct bpf_sock_addr *context)
{
	return decide_address(context, 1, 1);
}

enum {
	/* What the kernel has copied of an option; a longer one that is passed on has
	 * to be disowned, or fails. */
	OPTION_MAX = 4096,
};

/* The verifier takes no other loads of a socket than those of one field, whole. */
#define SOCK_FIELD(sock, field)                                              \
	({                                                                   \
		__u32 sock_field;                                            \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                        \
			     : "=r"(sock_field)                              \
			     : "r"(sock), "i"(__builtin_offsetof(struct bpf_sock, field))); \
		sock_field;                                                  \
	})

static __always_inline int decide_option(struct bpf_sockopt *context)
{
	__u64 now, start = lease_start(&now);
	struct fl_packet packet = {};
	struct bpf_sock *sock = context->sk;
	__u32 *words = (__u32 *)packet.destination.bytes;
	__u32 family = SOCK_FIELD(sock, family);

	if (context->optlen > OPTION_MAX)
		context->optlen = 0;
	if (!start || failed_already() || !family_wanted(family))
		return ALLOW;
	packet.family = version_of(family);
	if (packet.family) {
		packet.protocol = protocol_of(SOCK_FIELD(sock, protocol));
		packet.source_port = SOCK_FIELD(sock, src_port);
		packet.destination_port = bpf_ntohs(SOCK_FIELD(sock, dst_port));
		if (packet.family == 4) {
			map_ipv4(&packet.destination, SOCK_FIELD(sock, dst_ip4));
		} else {
			words[0] = SOCK_FIELD(sock, dst_ip6[0]);
			words[1] = SOCK_FIELD(sock, dst_ip6[1]);
			words[2] = SOCK_FIELD(sock, dst_ip6[2]);
			words[3] = SOCK_FIELD(sock, dst_ip6[3]);
		}
	}
	return refuse(decide(&packet, start, now));
}

SEC("cgroup/setsockopt")
int fl_setsockopt(struct bpf_sockopt *context)
{
	return decide_option(context);
}

SEC("cgroup/getsockopt")
int fl_getsockopt(struct bpf_sockopt *context)
{
	return decide_option(context);
}

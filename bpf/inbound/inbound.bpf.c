//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Delay of what the target receives. fl_in_choose stands at the ingress of an
 * interface and finds the target's packets; an action behind it (mirred) sends
 * a clone of each to an ifb device of ours, and fl_in_swallow, the next filter,
 * lets the packet itself vanish. fl_in_stamp stands at the egress of the
 * device, in front of its fq: it says when the clone may go on. After fq has
 * let it go, ifb puts it into the receive path at the interface by which it
 * came, past tc.
 *
 * A clone, since a packet that has come by a veth still belongs to its sender's
 * socket until IP gets it (skb_orphan in ip_rcv_core); while it waits TCP Small
 * Queues would let the sender have no more than two or so under way. The clone
 * is nobody's.
 *
 * A stamp at the device, since the redirection clears the packet's tstamp. What
 * fl_in_choose has decided the others find in skb->cb, which is scratch space
 * between tc programs and which nothing in between writes to.
 */
#include "../include/abi.h"
#include "../include/dice.h"
#include "../include/events.h"
#include "../include/filter.h"
#include "../include/lease.h"
#include "../include/packet.h"
#include "../include/stats.h"
#include "owner.h"
#include "skb.h"

char LICENSE[] SEC("license") = "GPL";

enum fl_in_flag {
	/* Everybody in the network namespace is the target. */
	IN_OWN_NETNS = 1 << 0,
	/* Count what would be hit, hit nothing. */
	IN_OBSERVE = 1 << 1,
};

struct fl_in_config {
	struct fl_dice dice;
	struct fl_filter filter;
	__u64 delay; /* ns */
	/* Bit n: some target is at level n of the hierarchy. */
	__u32 levels;
	__u32 flags; /* enum fl_in_flag */
	/* Random, and the fault's own: in skb->cb, "chosen". */
	__u32 mark;
	/* Random, 1 to 65535, and the fault's own: in skb->tc_index, "has been
	 * delayed". Above the interface a packet came by there may be others
	 * (VLAN, bridge) where it passes fl_in_choose again. */
	__u32 done;
};
_Static_assert(sizeof(struct fl_in_config) == 152, "known to Go");

volatile const struct fl_in_config fl_in_config;

/* Results of a cls_bpf program that is not "direct action". */
enum verdict {
	NO_MATCH = 0,
	/* The filter's actions are carried out. */
	MATCH = -1,
};

enum {
	IPV6_HEADER = 40,
	/* Router and neighbour solicitation, advertisement, redirect. */
	ND_FIRST = 133,
	ND_LAST = 137,
};

/* Neighbour discovery is to IPv6 what ARP is, which is not IP and never gets
 * this far: the link's own business. */
static __always_inline int is_neighbour_discovery(struct fl_skb *skb,
						  const struct fl_packet *packet)
{
	__u8 type;

	if (packet->family != 6 || packet->protocol != IPPROTO_ICMPV6)
		return 0;
	if (load_net(&skb->first, IPV6_HEADER, &type, sizeof(type)))
		return 0;
	return type >= ND_FIRST && type <= ND_LAST;
}

static __always_inline void sample(struct fl_skb *skb,
				   const struct fl_packet *packet, __u64 now,
				   __u64 cgroup)
{
	struct fl_event *event =
		bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = now;
	event->cgroup = cgroup;
	event->packet = *packet;
	event->length = skb->first.len;
	event->egress = 0;
	event->pad = 0;
	bpf_ringbuf_submit(event, 0);
}

/* Decides about one packet, and counts it. */
static __always_inline int chosen(struct fl_skb *skb)
{
	/* Volatile all the way, as in bpf/cgroupskb. */
	const volatile struct fl_in_config *config = &fl_in_config;
	struct fl_packet packet;
	enum fl_throw thrown;
	__u64 start, now = 0, cgroup = 0;

	start = lease_start(&now);
	if (!start)
		return 0;
	/* What is for another one's address, and seen since a bridge or a macvlan
	 * wants to see all, comes in for good at their interface. */
	if (skb->tc_index == config->done ||
	    skb->first.pkt_type == PACKET_OTHERHOST)
		return 0;
	if (parse_packet(&skb->first, &packet))
		return 0;
	/* A datagram arrives when its last fragment does: it is as late as its
	 * first one, which has the ports. */
	if (packet.later_fragment || is_neighbour_discovery(skb, &packet))
		return 0;
	/* The filter first: it costs less than to look for a socket. */
	if (!filter_matches(&config->filter, &packet, 0))
		return 0;
	if (!(config->flags & IN_OWN_NETNS) &&
	    !for_target(skb, &packet, config->levels, &cgroup))
		return 0;
	if (!pulse_is_on(&config->dice, now - start))
		return 0;
	count(matched);
	thrown = throw_dice(&config->dice, now - start, now);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_HIT_AND_SAMPLE)
		sample(skb, &packet, now, cgroup);
	return !(config->flags & IN_OBSERVE);
}

SEC("tc")
int fl_in_choose(struct fl_skb *skb)
{
	__u64 departure;

	if (!chosen(skb))
		return NO_MATCH;
	departure = bpf_ktime_get_ns() + fl_in_config.delay;
	skb->cb[0] = fl_in_config.mark;
	skb->cb[1] = ~fl_in_config.mark;
	skb->cb[2] = departure;
	skb->cb[3] = departure >> 32;
	return MATCH;
}

/* What the layers below leave in cb is as good as random: 64 bits are compared. */
static __always_inline int is_chosen(struct fl_skb *skb)
{
	return skb->cb[0] == fl_in_config.mark && skb->cb[1] == ~fl_in_config.mark;
}

/*
 * It asks for no lease: a packet whose clone is on its way must not be received
 * itself, also when the lease has ended between the two.
 */
SEC("tc")
int fl_in_swallow(struct fl_skb *skb)
{
	return is_chosen(skb) ? TC_ACT_STOLEN : TC_ACT_UNSPEC;
}

/*
 * Returns when the clone may go on (CLOCK_MONOTONIC), or 0 for at once. It will
 * be received in any case, so that first of all no filter above may take it for
 * one that has just been chosen.
 */
static __always_inline __u64 departure(struct fl_skb *skb)
{
	__u64 now;

	if (!is_chosen(skb))
		return 0;
	skb->cb[0] = 0;
	skb->cb[1] = 0;
	skb->tc_index = fl_in_config.done;
	if (!lease_start(&now))
		return 0;
	return skb->cb[2] | (__u64)skb->cb[3] << 32;
}

/* The protocol gives a packet the time of its arrival instead of the stamp when
 * it gets it. Linux 5.18 and later. */
SEC("tc")
int fl_in_stamp(struct fl_skb *skb)
{
	__u64 time = departure(skb);

	if (time && !bpf_skb_set_tstamp(&skb->first, time, TSTAMP_DELIVERY_MONO))
		count(hit);
	return TC_ACT_UNSPEC;
}

/* Before that the stamp stays in the packet, and SO_TIMESTAMP would show it;
 * fl_in_unstamp takes it away. */
SEC("tc")
int fl_in_stamp_bare(struct fl_skb *skb)
{
	__u64 time = departure(skb);

	if (time) {
		skb->tstamp = time;
		count(hit);
	}
	return TC_ACT_UNSPEC;
}

/*
 * For the target's cgroup, beside fl_in_stamp_bare. A time of arrival is one of
 * CLOCK_REALTIME, far beyond any of CLOCK_MONOTONIC; a packet without one gets
 * the time at which it is read.
 */
SEC("cgroup_skb/ingress")
int fl_in_unstamp(struct fl_skb *skb)
{
	enum { YEARS_18 = 59 };

	if (skb->tc_index == fl_in_config.done && skb->tstamp &&
	    !(skb->tstamp >> YEARS_18))
		skb->tstamp = 0;
	return 1;
}

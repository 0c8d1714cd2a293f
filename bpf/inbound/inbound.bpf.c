//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults of what the target receives. At the ingress of an interface each fault
 * has a program that chooses (fl_in_hold and others) and writes down what it
 * wants. Behind all of these each fault has a pair: with fl_in_copy an action
 * (mirred) that sends a clone to an ifb device of the fault's own, and
 * fl_in_take, which lets the packet itself vanish. fl_in_stamp stands at the
 * egress of the device, in front of its fq: it says when the clone may go on.
 * After fq has let it go, ifb puts it into the receive path at the interface by
 * which it came, past tc.
 *
 * All network faults of a run act together: whichever pair comes first does all
 * that was decided, and a packet that three of them hit is held once.
 *
 * A clone, since a packet that has come by a veth still belongs to its sender's
 * socket until IP gets it (skb_orphan in ip_rcv_core); while it waits TCP Small
 * Queues would let the sender have no more than two or so under way. The clone
 * is nobody's. A stamp at the device, since the redirection clears the packet's
 * tstamp.
 */
#include "../include/abi.h"
#include "../include/choose.h"
#include "../include/events.h"
#include "../include/lease.h"
#include "../include/stats.h"
#include "corrupt.h"
#include "length.h"
#include "owner.h"
#include "state.h"

char LICENSE[] SEC("license") = "GPL";

/* Results of a cls_bpf program that is not "direct action". */
enum verdict {
	NO_MATCH = 0,
	/* The filter's actions are carried out. */
	MATCH = -1,
};

/* Whose a packet can be. */
enum owner {
	/* Of the socket that it is for. */
	OF_SOCKET,
	/* Everybody in the network namespace is the target. */
	OF_NAMESPACE,
};

enum {
	/* linux/if_packet.h: not for this interface, seen all the same. */
	PACKET_OTHERHOST = 3,
	/* Of bpf_skb_set_tstamp, 5.18 and later. */
	TSTAMP_DELIVERY_MONO = 1,
	/* Router and neighbour solicitation, advertisement, redirect. */
	ND_FIRST = 133,
	ND_LAST = 137,
};

/* Neighbour discovery is to IPv6 what ARP is, which is not IP and never gets
 * this far: the link's own business. */
static __always_inline int is_neighbour_discovery(struct __sk_buff *skb,
						  const struct fl_packet *packet)
{
	__u8 type;

	if (packet->family != 6 || packet->protocol != IPPROTO_ICMPV6)
		return 0;
	if (load_net(skb, IPV6_HEADER, &type, sizeof(type)))
		return 0;
	return type >= ND_FIRST && type <= ND_LAST;
}

/* Decides about one packet, and counts it. */
static __always_inline int chosen(struct __sk_buff *skb, enum owner owner, __u32 effect,
				  struct choice *choice)
{
	const volatile struct fl_config *config = &fl_config;
	__u64 start, now = 0, cgroup = 0;
	struct fl_packet *packet = &choice->packet;
	struct fl_payload payload;
	enum fl_throw thrown;
	__u32 bytes = 0;

	choice->hold = 0;
	choice->after = 0;
	choice->mark = in_decided(skb, config->run) ? skb->cb[0] : 0;
	start = lease_start(&now);
	if (!start)
		return 0;
	/* What is for another one's address, and seen since a bridge or a macvlan
	 * wants to see all, comes in for good at their interface. */
	if (skb->tc_index == in_done(config->run) || skb->pkt_type == PACKET_OTHERHOST)
		return 0;
	/* What another fault of the run lets vanish never comes here. */
	if (in_decided(skb, config->run) && skb->cb[4] & IN_LOST)
		return 0;
	if (parse_packet(skb, packet))
		return 0;
	/* A datagram arrives when its last fragment does: it is as late as its
	 * first one, which has the ports. */
	if (packet->later_fragment || is_neighbour_discovery(skb, packet))
		return 0;
	/* The filter first: it costs less than to look for a socket. */
	if (!filter_matches(&config->filter, packet, RECEIVED))
		return 0;
	if (effect & EFFECT_CORRUPT &&
	    !find_payload(skb, packet, network_length(skb, packet), &payload))
		return 0;
	if (owner == OF_SOCKET && !for_target(skb, packet, config->levels, &cgroup))
		return 0;
	if (!pulse_is_on(&config->dice, now - start))
		return 0;
	count(matched);
	if (effect & EFFECT_SHAPE)
		bytes = bytes_on_the_wire(skb, packet, network_length(skb, packet));
	thrown = throw_and_time(bytes, RECEIVED, now - start, now, effect, choice);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_HIT_AND_SAMPLE)
		sample_packet(packet, cgroup, network_length(skb, packet), now, RECEIVED);
	return !config->observe;
}

static __always_inline __u32 bits_of(__u32 effect)
{
	switch (effect) {
	case EFFECT_DUPLICATE:
		return IN_TWICE;
	case EFFECT_LOSE:
		return IN_SWALLOW | IN_LOST;
	case EFFECT_CORRUPT:
		return 0;
	case EFFECT_REORDER:
		return IN_SWALLOW | IN_HELD | IN_FALLS;
	default:
		return IN_SWALLOW | IN_HELD;
	}
}

/* Tells who passes the packet whether it is held. */
static __always_inline void set_held(__u32 key, __u32 held)
{
	struct fl_decision *decision = bpf_map_lookup_elem(&fl_decisions, &key);

	if (decision)
		decision->effects = held;
}

static __always_inline int choose(struct __sk_buff *skb, enum owner owner, __u32 effect)
{
	const volatile struct fl_config *config = &fl_config;
	struct choice choice;
	__u64 now;
	__u32 key;

	if (!chosen(skb, owner, effect, &choice))
		return TC_ACT_UNSPEC;
	key = decision_key(choice.mark, config->run, config->fault, choice.ordinal);
	if (effect & EFFECT_CORRUPT) {
		enum fl_hit hit = damage_received(skb, key, config->dice.seed, choice.ordinal,
						  config->wrong);

		if (hit != HIT)
			return hit == RUINED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	}
	now = bpf_ktime_get_ns();
	if (effect & EFFECT_REORDER) {
		set_held(key, 0);
		choice.hold = choice.after > now ? choice.after - now : 0;
	}
	in_decide(skb, config->run, key,
		  bits_of(choice.effect) | 1U << (config->fault & (FAULTS_MAX - 1)),
		  now, choice.hold);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int fl_in_hold(struct __sk_buff *skb)
{
	return choose(skb, OF_SOCKET, EFFECT_HOLD);
}

SEC("tc")
int fl_in_hold_all(struct __sk_buff *skb)
{
	return choose(skb, OF_NAMESPACE, EFFECT_HOLD);
}

SEC("tc")
int fl_in_shape(struct __sk_buff *skb)
{
	return choose(skb, OF_SOCKET, EFFECT_SHAPE);
}

SEC("tc")
int fl_in_shape_all(struct __sk_buff *skb)
{
	return choose(skb, OF_NAMESPACE, EFFECT_SHAPE);
}

SEC("tc")
int fl_in_dup(struct __sk_buff *skb)
{
	return choose(skb, OF_SOCKET, EFFECT_DUPLICATE);
}

SEC("tc")
int fl_in_dup_all(struct __sk_buff *skb)
{
	return choose(skb, OF_NAMESPACE, EFFECT_DUPLICATE);
}

SEC("tc")
int fl_in_fall(struct __sk_buff *skb)
{
	return choose(skb, OF_SOCKET, EFFECT_REORDER);
}

SEC("tc")
int fl_in_fall_all(struct __sk_buff *skb)
{
	return choose(skb, OF_NAMESPACE, EFFECT_REORDER);
}

SEC("tc")
int fl_in_flip(struct __sk_buff *skb)
{
	return choose(skb, OF_SOCKET, EFFECT_CORRUPT);
}

SEC("tc")
int fl_in_flip_all(struct __sk_buff *skb)
{
	return choose(skb, OF_NAMESPACE, EFFECT_CORRUPT);
}

/* Matches a packet of which a clone is wanted. Where the lease has ended the
 * other faults of the run may make it, or nobody does. */
SEC("tc")
int fl_in_copy(struct __sk_buff *skb)
{
	__u32 next;
	__u64 now;

	if (!in_decided(skb, fl_config.run))
		return NO_MATCH;
	next = in_next(skb->cb[4]);
	if (!next || !lease_start(&now))
		return NO_MATCH;
	skb->cb[4] |= next;
	return MATCH;
}

/*
 * It asks for no lease: a packet whose clone is on its way must not be received
 * itself, also when the lease has ended between the two.
 */
SEC("tc")
int fl_in_take(struct __sk_buff *skb)
{
	__u32 bits;

	if (!in_decided(skb, fl_config.run))
		return TC_ACT_UNSPEC;
	bits = skb->cb[4];
	/* The pair of another fault comes yet; without one the packet is received. */
	if (in_next(bits))
		return TC_ACT_UNSPEC;
	in_finish(skb, fl_config.run);
	/* The others are counted with their first clone. */
	if (bits & IN_LOST || !(bits & (IN_HELD | IN_TWICE)))
		count_done(bits & IN_FAULTS);
	return bits & IN_SWALLOW ? TC_ACT_STOLEN : TC_ACT_UNSPEC;
}

/*
 * Returns when the clone may go on (CLOCK_MONOTONIC), or 0 for at once. It will
 * be received in any case, so that first of all no filter above may take it for
 * one that has just been chosen. It is counted with its first clone.
 */
static __always_inline __u64 departure(struct __sk_buff *skb)
{
	__u64 until;
	__u32 bits;

	if (!in_decided(skb, fl_config.run))
		return 0;
	until = in_until(skb);
	bits = skb->cb[4];
	if (bits & IN_FALLS)
		set_held(skb->cb[0] & MARK_KEY, HELD);
	in_finish(skb, fl_config.run);
	if (!(bits & IN_SECOND))
		count_done(bits & IN_FAULTS);
	return until;
}

/* The protocol gives a packet the time of its arrival instead of the stamp when
 * it gets it. Linux 5.18 and later. */
SEC("tc")
int fl_in_stamp(struct __sk_buff *skb)
{
	__u64 time = departure(skb);

	if (time)
		bpf_skb_set_tstamp(skb, time, TSTAMP_DELIVERY_MONO);
	return TC_ACT_UNSPEC;
}

/* Before that the stamp stays in the packet, and SO_TIMESTAMP would show it;
 * fl_in_unstamp takes it away. */
SEC("tc")
int fl_in_stamp_bare(struct __sk_buff *skb)
{
	__u64 time = departure(skb);

	if (time)
		skb->tstamp = time;
	return TC_ACT_UNSPEC;
}

/*
 * For the target's cgroup, beside fl_in_stamp_bare. A time of arrival is one of
 * CLOCK_REALTIME, far beyond any of CLOCK_MONOTONIC; a packet without one gets
 * the time at which it is read.
 */
SEC("cgroup_skb/ingress")
int fl_in_unstamp(struct __sk_buff *skb)
{
	enum { YEARS_18 = 59 };

	if (skb->tc_index == in_done(fl_config.run) && skb->tstamp && !(skb->tstamp >> YEARS_18))
		skb->tstamp = 0;
	return 1;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/* A sample of the packets that were hit. */
#pragma once

#include "packet.h"

struct fl_event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u64 cgroup; /* of the socket; 0: not known */
	struct fl_packet packet;
	__u32 length; /* bytes, from the network header */
	__u32 egress;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_packet) == 44, "known to Go");
_Static_assert(sizeof(struct fl_event) == 72, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} fl_events SEC(".maps");

static __always_inline void sample_packet(const struct fl_packet *packet, __u64 cgroup,
					  __u32 length, __u64 now, int egress)
{
	struct fl_event *event =
		bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = now;
	event->cgroup = cgroup;
	event->packet = *packet;
	event->length = length;
	event->egress = egress;
	event->pad = 0;
	bpf_ringbuf_submit(event, 0);
}

//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/* Block I/O that fails, where the kernel asks whether it is to be made fail for a test. */
#include "bio.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	COMMAND_SIZE = 16, /* TASK_COMM_LEN */
};

/* A sample of the bios that were hit. */
struct fl_disk_event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u64 cgroup; /* that is charged */
	__u64 sector;
	__u32 bytes;
	__u32 operation;
	__u32 pid; /* of who has it submitted: it may be a worker of the kernel */
	__u32 error;
	char command[COMMAND_SIZE];
};
_Static_assert(sizeof(struct fl_disk_event) == 56, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} fl_events SEC(".maps");

static __always_inline void sample_bio(const struct fl_bio *bio, const void *cgroup, __u32 error,
				       __u64 now)
{
	struct fl_disk_event *event = bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = now;
	event->cgroup = cgroup ? cgroup_id(cgroup) : bpf_get_current_cgroup_id();
	event->sector = bio->sector;
	event->bytes = bio->bytes;
	event->operation = bio->operation;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->error = error;
	bpf_get_current_comm(event->command, sizeof(event->command));
	bpf_ringbuf_submit(event, 0);
}

/* int should_fail_bio(struct bio *bio): whatever is returned, the bio ends with EIO. */
SEC("fmod_ret/should_fail_bio")
long fl_fail_bio(const __u64 *arguments)
{
	const void *bio = (const void *)arguments[0], *cgroup;
	__u64 now, start = lease_start(&now);
	struct fl_bio found;
	__u32 error;
	int sampled;

	if (!start)
		return 0;
	cgroup = cgroup_of(bio);
	if (!match_bio(bio, cgroup, &found))
		return 0;
	error = decide_failure(start, now, &sampled);
	if (sampled)
		sample_bio(&found, cgroup, error, now);
	if (error)
		count(hit);
	return -(long)error;
}

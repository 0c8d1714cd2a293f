/* SPDX-License-Identifier: GPL-2.0-only */
/* A bio (the kernel's request of block I/O): what it asks for, where, and for whom. */
#pragma once

#include "../include/failure.h"
#include "../include/read.h"

enum {
	RANGES_MAX = 16,
	SECTOR_SHIFT = 9,

	/* Operations, of which bi_opf has the lowest bits (enum req_op). */
	REQ_OP_MASK = 0xff,
	REQ_OP_READ = 0,
	REQ_OP_WRITE = 1,
	REQ_OP_DISCARD = 3,
	REQ_OP_SECURE_ERASE = 5,
	REQ_OP_ZONE_APPEND = 7,
	REQ_OP_WRITE_ZEROES = 9,

	/* Bits of what a fault is for, and numbers of events: v1.DiskError_Operation. */
	DISK_READ = 1,
	DISK_WRITE = 2,
	DISK_FLUSH = 3,
	DISK_DISCARD = 4,
};

/* Where the kernel has its fields, bytes, and bits that differ between kernels. */
struct fl_bio_layout {
	__u32 bio_operation;
	__u32 bio_flags;
	__u32 bio_sector;
	__u32 bio_size;
	__u32 bio_device;
	__u32 bio_group;
	__u32 device_number;
	__u32 device_start;
	__u32 device_disk;
	__u32 disk_whole;
	__u32 group_blkcg;
	__u32 blkcg_cgroup;
	__u32 cgroup_level;
	__u32 cgroup_ancestors;
	__u32 cgroup_node;
	__u32 node_id;
	/* Of bi_opf: the device's cache is to be written out first. */
	__u32 preflush;
	/* Of bi_opf: it is of the file system's own structures. */
	__u32 metadata;
	/* Of bi_flags: it came by before; what is left of one that was split does. */
	__u32 seen;
};
_Static_assert(sizeof(struct fl_bio_layout) == 76, "known to Go");

/* Both are included. */
struct fl_range {
	__u64 first;
	__u64 last;
};

struct fl_disk_config {
	struct fl_bio_layout layout;
	/* dev_t of the kernel. */
	__u32 device;
	/* 1 << DISK_READ and others. */
	__u32 operations;
	__u32 pad;
	struct fl_range ranges[RANGES_MAX];
	/* 0: all sectors. */
	__u32 ranges_used;
	/* The I/O of the target's tasks, where the bio does not tell a cgroup. */
	__u32 by_task;
};
_Static_assert(sizeof(struct fl_disk_config) == 76 + 12 + RANGES_MAX * 16 + 8, "known to Go");

volatile const struct fl_disk_config fl_disk_config;

struct fl_bio {
	__u64 sector; /* on the device that the fault is for */
	__u32 bytes;
	__u32 operation; /* DISK_READ and others */
};

/*
 * Which of the operations that the fault is for it is; 0: none. A file system whose own
 * structures can't be read or written stops for everybody, and for good: those are left
 * alone.
 */
static __always_inline __u32 operation_of(const void *bio, __u32 bytes)
{
	const volatile struct fl_disk_config *config = &fl_disk_config;
	__u32 bits = load_half(bio + config->layout.bio_operation), operation;

	if (bits & config->layout.metadata)
		return 0;
	switch (bits & REQ_OP_MASK) {
	case REQ_OP_READ:
		operation = DISK_READ;
		break;
	case REQ_OP_WRITE:
	case REQ_OP_ZONE_APPEND:
	case REQ_OP_WRITE_ZEROES:
		operation = DISK_WRITE;
		break;
	case REQ_OP_DISCARD:
	case REQ_OP_SECURE_ERASE:
		operation = DISK_DISCARD;
		break;
	default:
		operation = 0;
	}
	/* One without data is no write. */
	if (operation == DISK_WRITE && !bytes)
		operation = 0;
	if (operation && config->operations >> operation & 1)
		return operation;
	if (bits & config->layout.preflush && config->operations >> DISK_FLUSH & 1)
		return DISK_FLUSH;
	return 0;
}

/* Tells the sector on the fault's device, which is the bio's or the disk that it is a part of. */
static __always_inline int is_on_device(const void *bio, __u64 *sector)
{
	const volatile struct fl_disk_config *config = &fl_disk_config;
	const volatile struct fl_bio_layout *layout = &config->layout;
	const void *device = load_pointer(bio + layout->bio_device), *whole;

	*sector = load_word(bio + layout->bio_sector);
	if (load_half(device + layout->device_number) == config->device)
		return 1;
	whole = load_pointer(load_pointer(device + layout->device_disk) + layout->disk_whole);
	*sector += load_word(device + layout->device_start);
	return load_half(whole + layout->device_number) == config->device;
}

static __always_inline int is_in_ranges(const struct fl_bio *bio)
{
	const volatile struct fl_disk_config *config = &fl_disk_config;
	__u64 last = bio->sector + (bio->bytes >> SECTOR_SHIFT);

	if (!config->ranges_used)
		return 1;
	if (!bio->bytes)
		return 0; /* a flush is of no sector */
	for (int i = 0; i < RANGES_MAX; i++) {
		if (i == config->ranges_used)
			break;
		if (bio->sector <= config->ranges[i].last && last > config->ranges[i].first)
			return 1;
	}
	return 0;
}

/* The cgroup that the kernel charges; 0: it does not say. */
static __always_inline const void *cgroup_of(const void *bio)
{
	const volatile struct fl_bio_layout *layout = &fl_disk_config.layout;
	const void *group = load_pointer(bio + layout->bio_group);

	if (!group)
		return 0;
	return load_pointer(load_pointer(group + layout->group_blkcg) + layout->blkcg_cgroup);
}

static __always_inline __u64 cgroup_id(const void *cgroup)
{
	const volatile struct fl_bio_layout *layout = &fl_disk_config.layout;

	return load_word(load_pointer(cgroup + layout->cgroup_node) + layout->node_id);
}

static __always_inline int is_of_target(const void *cgroup)
{
	const volatile struct fl_bio_layout *layout = &fl_disk_config.layout;
	__u32 levels = fl_failure.target.levels, own;

	if (fl_disk_config.by_task)
		return runs_in(&fl_failure.target);
	if (!cgroup)
		return 0;
	own = load_half(cgroup + layout->cgroup_level);
	for (__u32 level = 1; level < LEVELS_MAX; level++) {
		__u64 id;

		if (level > own)
			break;
		if (!(levels >> level & 1))
			continue;
		id = cgroup_id(load_pointer(cgroup + layout->cgroup_ancestors +
					    level * sizeof(cgroup)));
		if (id && bpf_map_lookup_elem(&fl_targets, &id))
			return 1;
	}
	return 0;
}

/* Whether the fault is for it. */
static __always_inline int match_bio(const void *bio, const void *cgroup, struct fl_bio *found)
{
	const volatile struct fl_bio_layout *layout = &fl_disk_config.layout;

	if (load_short(bio + layout->bio_flags) & layout->seen || !is_on_device(bio, &found->sector))
		return 0;
	found->bytes = load_half(bio + layout->bio_size);
	found->operation = operation_of(bio, found->bytes);
	return found->operation && is_in_ranges(found) && is_of_target(cgroup);
}

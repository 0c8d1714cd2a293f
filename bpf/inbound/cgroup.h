/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The cgroup of a socket, as bpf_sk_ancestor_cgroup_id and bpf_sk_cgroup_id
 * tell it. No kernel up to 7.0 lets tc programs call these, so that the
 * kernel's own structures are read here; their layout is filled in when the
 * program is loaded (CO-RE). The one place that knows how kernels differ.
 */
#pragma once

#include "../include/abi.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
	int level;
};

/* 6.1 and later. */
struct cgroup___pointers {
	struct cgroup *ancestors[1];
};

/* Before that. */
struct cgroup___ids {
	__u64 ancestor_ids[1];
};

/* 5.15 and later. */
struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* Before that: a pointer with two flags in its lowest bits. */
struct sock_cgroup_data___flags {
	__u64 val;
};

struct sock {
	struct sock_cgroup_data sk_cgrp_data;
};

/* Of a connection that is being made this is all (struct request_sock). */
struct sock_common {
	struct sock *skc_listener;
};

#pragma clang attribute pop

enum {
	/* Of val: no cgroup of the unified hierarchy but a class of net_cls or a
	 * priority of net_prio. */
	CGROUP_IS_DATA = 1,
	CGROUP_FLAGS = 3,
};

static __always_inline __u64 read_u64(const void *from)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), from);
	return value;
}

/* A socket that the verifier knows as such, as an address. It allows no
 * arithmetic on it; on the stack it is a number like all others. */
static __always_inline struct sock *untyped(const void *socket)
{
	const void *volatile stored = socket;

	return (void *)read_u64((const void *)&stored);
}

static __always_inline struct cgroup *cgroup_of(struct sock *socket)
{
	const void *data = &socket->sk_cgrp_data;
	const struct sock_cgroup_data___flags *old = data;
	const struct sock_cgroup_data *new = data;
	__u64 value;

	if (!bpf_core_field_exists(old->val))
		return (void *)read_u64(&new->cgroup);
	value = read_u64(&old->val);
	if (value & CGROUP_IS_DATA)
		return 0;
	return (void *)(value & ~(__u64)CGROUP_FLAGS);
}

static __always_inline __u64 cgroup_id(struct cgroup *cgroup)
{
	struct kernfs_node *node = (void *)read_u64(&cgroup->kn);

	return node ? read_u64(&node->id) : 0;
}

static __always_inline int cgroup_level(struct cgroup *cgroup)
{
	int level = 0;

	bpf_probe_read_kernel(&level, sizeof(level), &cgroup->level);
	return level;
}

/* The id of the ancestor at a level that is not below the cgroup's own. */
static __always_inline __u64 ancestor_id(struct cgroup *cgroup, int level)
{
	const struct cgroup___pointers *pointers = (void *)cgroup;
	const struct cgroup___ids *ids = (void *)cgroup;
	struct cgroup *ancestor;

	if (bpf_core_field_exists(ids->ancestor_ids))
		return read_u64((void *)&ids->ancestor_ids + level * sizeof(__u64));
	ancestor = (void *)read_u64((void *)&pointers->ancestors + level * sizeof(__u64));
	return ancestor ? cgroup_id(ancestor) : 0;
}

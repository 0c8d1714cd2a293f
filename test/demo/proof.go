//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cgroupHooks are the hooks of a cgroup that carry programs about its network.
var cgroupHooks = map[ebpf.AttachType]string{
	ebpf.AttachCGroupInetIngress:      "inet_ingress",
	ebpf.AttachCGroupInetEgress:       "inet_egress",
	ebpf.AttachCGroupInetSockCreate:   "sock_create",
	ebpf.AttachCGroupInet4Connect:     "connect4",
	ebpf.AttachCGroupInet6Connect:     "connect6",
	ebpf.AttachCGroupUDP4Sendmsg:      "sendmsg4",
	ebpf.AttachCGroupUDP6Sendmsg:      "sendmsg6",
	ebpf.AttachCgroupInet4GetPeername: "getpeername4",
	ebpf.AttachCGroupSockOps:          "sock_ops",
	ebpf.AttachCGroupDevice:           "device",
}

// tcxHooks are the hooks of an interface since Linux 6.6.
var tcxHooks = map[ebpf.AttachType]string{
	ebpf.AttachTCXIngress: "tcx ingress",
	ebpf.AttachTCXEgress:  "tcx egress",
}

// attached asks the kernel, past faultline, where programs, filters and qdiscs
// are on the stage: on its cgroups and on the interfaces of its namespaces.
func (s *stage) attached() ([]string, error) {
	var found []string
	for _, path := range []string{s.root, s.cgroup(roleService), s.cgroup(roleClient), s.cgroup(roleBystander)} {
		more, err := onCgroup(path)
		if err != nil {
			return nil, fmt.Errorf("asking for the programs of %s: %w", path, err)
		}
		for _, hook := range more {
			found = append(found, fmt.Sprintf("%s of cgroup %s", hook, strings.TrimPrefix(path, s.mount)))
		}
	}
	for role, ns := range map[string]*namespace{roleService: s.service, roleClient: s.client} {
		err := ns.do(func() error {
			more, err := onInterfaces()
			for _, hook := range more {
				found = append(found, fmt.Sprintf("%s in the %s's network", hook, role))
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("asking for the programs of the %s's interfaces: %w", role, err)
		}
	}
	slices.Sort(found)
	return found, nil
}

func onCgroup(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	var found []string
	for hook, name := range cgroupHooks {
		programs, err := query(int(dir.Fd()), hook)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for range programs {
			found = append(found, name)
		}
	}
	return found, nil
}

// onInterfaces looks at the interfaces of the caller's network namespace.
func onInterfaces() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, l := range links {
		name := l.Attrs().Name
		for hook, hookName := range tcxHooks {
			programs, err := query(l.Attrs().Index, hook)
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", hookName, name, err)
			}
			for range programs {
				found = append(found, hookName+" of "+name)
			}
		}
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return nil, err
		}
		for _, q := range qdiscs {
			// noqueue is what a virtual interface has when it has nothing.
			if q.Type() != "noqueue" {
				found = append(found, "qdisc "+q.Type()+" of "+name)
			}
			if q.Type() != "clsact" {
				continue
			}
			for parent, direction := range map[uint32]string{netlink.HANDLE_MIN_INGRESS: "ingress", netlink.HANDLE_MIN_EGRESS: "egress"} {
				filters, err := netlink.FilterList(l, parent)
				if err != nil {
					return nil, err
				}
				for _, f := range filters {
					found = append(found, f.Type()+" filter at "+direction+" of "+name)
				}
			}
		}
	}
	return found, nil
}

// query lists the programs at a hook; a hook that this kernel does not have
// carries none.
func query(target int, hook ebpf.AttachType) ([]link.AttachedProgram, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: hook})
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return result.Programs, nil
}

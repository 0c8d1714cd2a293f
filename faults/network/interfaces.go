package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/netns"
)

// iface is an interface of one namespace.
type iface struct {
	namespace *netns.Namespace
	index     int
	name      string
}

func (i iface) String() string { return fmt.Sprintf("interface %s in %s", i.name, i.namespace) }

// outgoing lists the interfaces over which packets to the peers can leave, by
// every routing table of the namespace. No peers stands for every address.
//
// A packet for an address of the machine itself leaves by the loopback
// interface. Interfaces below another one (the ports of a bond or of a bridge)
// have no routes, and see a packet after the one above them.
func outgoing(ns *netns.Namespace, peers []netip.Prefix) ([]iface, error) {
	links, err := upLinks(ns)
	if err != nil {
		return nil, err
	}
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	// Table 0 asks for all tables, not only main (rtnetlink(7)).
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("listing the routes of %s: %w", ns, err)
	}
	used := map[int]bool{}
	for _, route := range routes {
		if !leads(route, peers) {
			continue
		}
		for _, index := range devices(route, links) {
			used[index] = true
		}
	}
	var list []iface
	for _, link := range links {
		attrs := link.Attrs()
		if used[attrs.Index] {
			list = append(list, iface{namespace: ns, index: attrs.Index, name: attrs.Name})
		}
	}
	return list, nil
}

// upLinks lists the interfaces that are up, by their index.
func upLinks(ns *netns.Namespace) ([]netlink.Link, error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces of %s: %w", ns, err)
	}
	links = slices.DeleteFunc(links, func(link netlink.Link) bool { return link.Attrs().Flags&net.FlagUp == 0 })
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	return links, nil
}

// leads tells whether some address of peers can take the route.
func leads(route netlink.Route, peers []netip.Prefix) bool {
	if len(peers) == 0 {
		return true
	}
	destination, ok := destination(route)
	if !ok {
		return true // better one interface too many than a packet missed
	}
	return slices.ContainsFunc(peers, destination.Overlaps)
}

func destination(route netlink.Route) (netip.Prefix, bool) {
	if route.Dst == nil {
		if route.Family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	addr, ok := netip.AddrFromSlice(route.Dst.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := route.Dst.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones), true
}

func devices(route netlink.Route, links []netlink.Link) []int {
	switch route.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return nil
	case unix.RTN_LOCAL, unix.RTN_ANYCAST:
		for _, link := range links {
			if link.Attrs().Flags&net.FlagLoopback != 0 {
				return []int{link.Attrs().Index}
			}
		}
		return nil
	}
	list := []int{route.LinkIndex}
	for _, hop := range route.MultiPath {
		list = append(list, hop.LinkIndex)
	}
	return list
}

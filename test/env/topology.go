//go:build linux

package env

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The addresses of AddVLAN, and its interface on both sides.
const (
	VLANAddressA  = "10.98.0.1"
	VLANAddressB  = "10.98.0.2"
	VLANAddress6A = "fd00:98::1"
	VLANAddress6B = "fd00:98::2"
	VLAN          = Veth + ".98"
	vlanID        = 98
)

// NewLoopback is a namespace in which both sides are: they reach each other by
// lo.
func NewLoopback(t testing.TB) Network {
	t.Helper()
	ns := newNamespace(t)
	ns.Do(func() error { return up("lo") })
	return Network{A: ns, B: ns}
}

// NewContainer is a Network in which A is like a container, and B its host: A's
// interface leads to a bridge in B, which has B's addresses. The error is that of
// a kernel without bridges.
func NewContainer(t testing.TB) (n Network, missing error) {
	t.Helper()
	const port, bridge = "port0", "br0"
	n = Network{A: newNamespace(t), B: newNamespace(t)}
	n.connect(Veth, port)
	n.B.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridge
		device := &netlink.Bridge{LinkAttrs: attrs}
		if missing = netlink.LinkAdd(device); missing != nil {
			return nil
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(link, device); err != nil {
			return err
		}
		if err := up(port); err != nil {
			return err
		}
		return configure(bridge, AddressB, Address6B)
	})
	if missing != nil {
		return n, missing
	}
	n.A.Do(func() error { return configure(Veth, AddressA, Address6A) })
	n.A.Do(func() error { return Within(10*time.Second, running(Veth)) })
	n.B.Do(func() error { return Within(10*time.Second, running(bridge)) })
	n.introduce(Veth, bridge, []string{AddressA, Address6A}, []string{AddressB, Address6B})
	return n, nil
}

// AddVLAN lays a VLAN over the interfaces of both sides, with addresses of its
// own. The error is that of a kernel without VLANs.
func (n Network) AddVLAN() (missing error) {
	n.A.t.Helper()
	for ns, addresses := range map[*Namespace][]string{
		n.A: {VLANAddressA, VLANAddress6A},
		n.B: {VLANAddressB, VLANAddress6B},
	} {
		ns.Do(func() error {
			parent, err := netlink.LinkByName(Veth)
			if err != nil {
				return err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = VLAN, parent.Attrs().Index
			if missing = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vlanID}); missing != nil {
				return nil
			}
			return configure(VLAN, addresses...)
		})
		if missing != nil {
			return missing
		}
	}
	for _, ns := range []*Namespace{n.A, n.B} {
		ns.Do(func() error { return Within(10*time.Second, running(VLAN)) })
	}
	n.introduce(VLAN, VLAN, []string{VLANAddressA, VLANAddress6A}, []string{VLANAddressB, VLANAddress6B})
	return nil
}

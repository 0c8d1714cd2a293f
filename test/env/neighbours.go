//go:build linux

package env

import (
	"net"

	"github.com/vishvananda/netlink"
)

// introduce tells each side the link addresses of the other, as after their first
// packets. While one is asked for, packets wait in a queue that drops the oldest
// when there are too many: a burst to a stranger loses some without a fault.
func (n Network) introduce(nameA, nameB string, addressesA, addressesB []string) {
	n.A.t.Helper()
	a, b := n.A.hardwareAddress(nameA), n.B.hardwareAddress(nameB)
	n.A.know(nameA, b, addressesB)
	n.B.know(nameB, a, addressesA)
}

func (n *Namespace) hardwareAddress(name string) (address net.HardwareAddr) {
	n.t.Helper()
	n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			address = link.Attrs().HardwareAddr
		}
		return err
	})
	return address
}

func (n *Namespace) know(name string, at net.HardwareAddr, addresses []string) {
	n.t.Helper()
	n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, State: netlink.NUD_REACHABLE,
				IP: net.ParseIP(address), HardwareAddr: at,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetNeighbours lets the namespace ask for the link addresses behind an
// interface again.
func (n *Namespace) ForgetNeighbours(name string) {
	n.t.Helper()
	n.Run("ip", "neighbour", "flush", "dev", name)
}

package ifb

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Stats are what became of the packets that were led to the device.
type Stats struct {
	// Waiting in fq.
	Waiting uint64
	// Dropped by fq, whose limit was reached, or by the device.
	Dropped uint64
	// Passed on to the receive path.
	Passed uint64
}

// Stats asks the kernel.
func (d *Device) Stats() (Stats, error) {
	h, err := d.ns.Handle()
	if err != nil {
		return Stats{}, err
	}
	defer h.Close()
	link, err := h.LinkByIndex(d.Index)
	if err != nil {
		return Stats{}, fmt.Errorf("looking for interface %s in %s: %w", d.Name, d.ns, err)
	}
	stats, _, err := traffic(h, link)
	return stats, err
}

// traffic also tells how many packets are between fq and the receive path.
func traffic(h *netlink.Handle, link netlink.Link) (stats Stats, within uint64, err error) {
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return stats, 0, fmt.Errorf("listing the qdiscs of %s: %w", link.Attrs().Name, err)
	}
	for _, qdisc := range qdiscs {
		s := qdisc.Attrs().Statistics
		if qdisc.Attrs().Parent == netlink.HANDLE_ROOT && s != nil && s.Queue != nil {
			stats.Waiting, stats.Dropped = uint64(s.Queue.Qlen), uint64(s.Queue.Drops)
		}
	}
	// What leaves fq an ifb counts as received, and what it puts back into the
	// receive path as transmitted (ifb_xmit, ifb_ri_tasklet). Both are read
	// after fq's length: what has left meanwhile is in the first.
	link, err = h.LinkByIndex(link.Attrs().Index)
	if err != nil {
		return stats, 0, fmt.Errorf("reading the counters of %s: %w", link, err)
	}
	s := link.Attrs().Statistics
	stats.Passed = s.TxPackets - s.TxDropped
	stats.Dropped += s.RxDropped + s.TxDropped
	if gone := s.RxDropped + s.TxPackets; s.RxPackets > gone {
		within = s.RxPackets - gone
	}
	return stats, within, nil
}

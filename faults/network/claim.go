package network

import (
	"fmt"
	"net/netip"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// claim is the set of packets that a fault decides about.
type claim struct {
	cgroups []fault.Cgroup
	filter  filter
	// peers are the filter's peers and the addresses of its hosts.
	peers []netip.Prefix
}

// Conflict reports packets that both faults would decide about. Filters that
// differ in one field so that no packet can match both don't conflict.
func (c claim) Conflict(other fault.Claim) string {
	o, ok := other.(claim)
	if !ok || c.filter.disjoint(&o.filter) || peersDisjoint(c, o) {
		return ""
	}
	for _, mine := range c.cgroups {
		for _, theirs := range o.cgroups {
			if mine.Contains(theirs) {
				return fmt.Sprintf("the same packets of %s", theirs.Path)
			}
			if theirs.Contains(mine) {
				return fmt.Sprintf("the same packets of %s", mine.Path)
			}
		}
	}
	return ""
}

func (f *filter) disjoint(o *filter) bool {
	if (!f.egress || !o.egress) && (!f.ingress || !o.ingress) {
		return true
	}
	if f.protocol != v1.Filter_PROTOCOL_UNSPECIFIED && o.protocol != v1.Filter_PROTOCOL_UNSPECIFIED &&
		f.protocol != o.protocol {
		return true
	}
	opens := func(a, b *filter) bool {
		return a.connections == v1.Filter_NEW && b.connections == v1.Filter_ESTABLISHED
	}
	if opens(f, o) || opens(o, f) {
		return true
	}
	if f.needsPorts || o.needsPorts {
		return f.ports.disjoint(o.ports) || f.localPorts.disjoint(o.localPorts)
	}
	return false
}

func peersDisjoint(a, b claim) bool {
	if a.filter.everybody() || b.filter.everybody() {
		return false
	}
	for _, mine := range a.peers {
		for _, theirs := range b.peers {
			if mine.Overlaps(theirs) {
				return false
			}
		}
	}
	return true
}

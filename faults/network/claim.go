package network

import (
	"encoding/json"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
)

// Packets claims the packets that a fault decides about.
type Packets struct {
	Cgroups []fault.Cgroup
	// Filter as it stands in the document, with its defaults.
	Filter *v1.Filter
	// Peers are the filter's peers and the addresses of its hosts.
	Peers []netip.Prefix
	// Effect is the kind of fault, where faults of other kinds in the same run
	// may decide about the packet too; "" where they may not, which is also
	// what is known of other runs.
	Effect string
}

// PacketsKind is the name of Packets where claims are stored.
const PacketsKind = "packets"

// Kind implements fault.Claim.
func (Packets) Kind() string { return PacketsKind }

// storedPackets is Packets as JSON.
type storedPackets struct {
	Cgroups []fault.Cgroup
	Filter  json.RawMessage
	Peers   []netip.Prefix
}

// MarshalJSON implements json.Marshaler.
func (c Packets) MarshalJSON() ([]byte, error) {
	filter, err := protojson.Marshal(c.Filter)
	if err != nil {
		return nil, err
	}
	return json.Marshal(storedPackets{c.Cgroups, filter, c.Peers})
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Packets) UnmarshalJSON(data []byte) error {
	var stored storedPackets
	if err := json.Unmarshal(data, &stored); err != nil {
		return err
	}
	c.Cgroups, c.Peers, c.Filter = stored.Cgroups, stored.Peers, &v1.Filter{}
	return protojson.Unmarshal(stored.Filter, c.Filter)
}

// Conflict reports packets that both faults would decide about and that can
// have one fate only. Filters that differ in one field so that no packet can
// match both don't conflict.
func (c Packets) Conflict(other fault.Claim) string {
	o, ok := other.(Packets)
	if !ok {
		return ""
	}
	if c.Effect != "" && o.Effect != "" && c.Effect != o.Effect {
		return ""
	}
	// Both were parsed before they became claims.
	mine, _ := filter.Parse(c.Filter)
	theirs, _ := filter.Parse(o.Filter)
	if mine.Disjoint(&theirs) || !mine.Everybody() && !theirs.Everybody() && !overlap(c.Peers, o.Peers) {
		return ""
	}
	if path := fault.Shared(c.Cgroups, o.Cgroups); path != "" {
		return "the same packets of " + path
	}
	return ""
}

func overlap(a, b []netip.Prefix) bool {
	for _, mine := range a {
		if slices.ContainsFunc(b, mine.Overlaps) {
			return true
		}
	}
	return false
}

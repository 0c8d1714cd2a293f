package filter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/faults/fault"
)

// resolveInterval is the time between two look-ups of the filter's hosts.
const resolveInterval = 10 * time.Second

// Peers is the filter's other side: what the document says and what its host
// names have resolved to. Addresses are added during the fault, and none is
// taken away: connections to an earlier address may still be open.
type Peers struct {
	prefixes []netip.Prefix
	filter   *Filter
	resolver fault.Resolver
	resolved time.Time
	// pending are not yet in the trie.
	pending []netip.Prefix
}

// NewPeers looks up the hosts of a filter.
func NewPeers(ctx context.Context, f *Filter, resolver fault.Resolver) (*Peers, error) {
	found, err := f.resolve(ctx, resolver)
	if err != nil {
		return nil, err
	}
	set := &Peers{filter: f, resolver: resolver, resolved: time.Now()}
	set.add(f.peers)
	set.add(found)
	return set, nil
}

// List is empty when the filter leaves the peer open.
func (s *Peers) List() []netip.Prefix { return s.prefixes }

// add returns those that are new.
func (s *Peers) add(prefixes []netip.Prefix) []netip.Prefix {
	var added []netip.Prefix
	for _, prefix := range prefixes {
		if !slices.Contains(s.prefixes, prefix) {
			s.prefixes = append(s.prefixes, prefix)
			added = append(added, prefix)
		}
	}
	return added
}

// Refresh looks the hosts up again, at most once in resolveInterval, and puts
// new addresses into the trie. What was known stays when a look-up fails.
func (s *Peers) Refresh(ctx context.Context, trie *ebpf.Map) error {
	if err := putPrefixes(trie, s.pending); err != nil {
		return err
	}
	s.pending = nil
	if len(s.filter.Hosts) == 0 || time.Since(s.resolved) < resolveInterval {
		return nil
	}
	s.resolved = time.Now()
	found, err := s.filter.resolve(ctx, s.resolver)
	if err != nil {
		return err
	}
	return putPrefixes(trie, s.add(found))
}

// Merge takes over what a trie knows from earlier look-ups. What the trie does
// not know is put there with the next refresh.
func (s *Peers) Merge(trie *ebpf.Map) error {
	var known []netip.Prefix
	var key prefixKey
	var value uint8
	entries := trie.Iterate()
	for entries.Next(&key, &value) {
		addr, bits := netip.AddrFrom16(key.Address), int(key.Length)
		if addr.Is4In6() && bits >= 96 {
			addr, bits = addr.Unmap(), bits-96
		}
		known = append(known, netip.PrefixFrom(addr, bits))
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading peers: %w", err)
	}
	for _, prefix := range s.prefixes {
		if !slices.Contains(known, prefix) {
			s.pending = append(s.pending, prefix)
		}
	}
	s.add(known)
	return nil
}

func putPrefixes(trie *ebpf.Map, prefixes []netip.Prefix) error {
	for _, prefix := range prefixes {
		key := prefixKey{Length: uint32(prefix.Bits())}
		if prefix.Addr().Is4() {
			key.Length += 96
		}
		key.Address = prefix.Addr().As16()
		if err := trie.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("writing peer %s: %w", prefix, err)
		}
	}
	return nil
}

package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/fault"
)

// resolveInterval is the time between two look-ups of the filter's hosts.
const resolveInterval = 10 * time.Second

// peerSet is the filter's other side: what the document says and what its host
// names have resolved to. Addresses are added during the fault, and none is
// taken away: connections to an earlier address may still be open.
type peerSet struct {
	prefixes []netip.Prefix
	filter   *filter
	resolver fault.Resolver
	resolved time.Time
	// pending are not yet in the trie.
	pending []netip.Prefix
}

func newPeerSet(ctx context.Context, f *filter, resolver fault.Resolver) (*peerSet, error) {
	found, err := f.resolve(ctx, resolver)
	if err != nil {
		return nil, err
	}
	set := &peerSet{filter: f, resolver: resolver, resolved: time.Now()}
	set.add(f.peers)
	set.add(found)
	return set, nil
}

// list is empty when the filter leaves the peer open.
func (s *peerSet) list() []netip.Prefix { return s.prefixes }

// add returns those that are new.
func (s *peerSet) add(prefixes []netip.Prefix) []netip.Prefix {
	var added []netip.Prefix
	for _, prefix := range prefixes {
		if !slices.Contains(s.prefixes, prefix) {
			s.prefixes = append(s.prefixes, prefix)
			added = append(added, prefix)
		}
	}
	return added
}

// refresh looks the hosts up again, at most once in resolveInterval, and puts
// new addresses into the trie. What was known stays when a look-up fails.
func (s *peerSet) refresh(ctx context.Context, trie *ebpf.Map) error {
	if err := putPrefixes(trie, s.pending); err != nil {
		return err
	}
	s.pending = nil
	if len(s.filter.hosts) == 0 || time.Since(s.resolved) < resolveInterval {
		return nil
	}
	s.resolved = time.Now()
	found, err := s.filter.resolve(ctx, s.resolver)
	if err != nil {
		return err
	}
	return putPrefixes(trie, s.add(found))
}

// merge takes over what a trie knows from earlier look-ups. What the trie does
// not know is put there with the next refresh.
func (s *peerSet) merge(trie *ebpf.Map) error {
	var known []netip.Prefix
	var key cgroupskb.ObjectsFlPrefix
	var value uint8
	entries := trie.Iterate()
	for entries.Next(&key, &value) {
		addr, bits := netip.AddrFrom16(key.Address.Bytes), int(key.Length)
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
		key := cgroupskb.ObjectsFlPrefix{Length: uint32(prefix.Bits())}
		if prefix.Addr().Is4() {
			key.Length += 96
		}
		key.Address.Bytes = prefix.Addr().As16()
		if err := trie.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("writing peer %s: %w", prefix, err)
		}
	}
	return nil
}

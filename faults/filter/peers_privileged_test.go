//go:build linux && privileged

package filter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
)

// moving is a name server in which every name has one address, or none.
type moving struct{ address string }

func (m *moving) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if m.address == "" {
		return nil, errors.New("server misbehaving")
	}
	return []netip.Addr{netip.MustParseAddr(m.address)}, nil
}

// newTrie is the map of peers of bpf/include/filter.h.
func newTrie(t *testing.T) *ebpf.Map {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := cgroupskb.LoadObjects()
	if err != nil {
		t.Fatal(err)
	}
	trie, err := ebpf.NewMap(spec.Maps[PeersMap])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trie.Close() })
	return trie
}

func entries(t *testing.T, trie *ebpf.Map) (n int) {
	t.Helper()
	var key prefixKey
	var value uint8
	all := trie.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHostsAreFollowed(t *testing.T) {
	trie := newTrie(t)
	f, problems := Parse(&v1.Filter{Hosts: []string{"db.test"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	names := &moving{"10.0.0.1"}
	set, err := NewPeers(t.Context(), &f, names)
	if err != nil {
		t.Fatal(err)
	}
	names.address = "10.0.0.2"
	if err := set.Refresh(t.Context(), trie); err != nil || len(set.List()) != 1 {
		t.Errorf("looked up again too early: %v, %v", set.List(), err)
	}
	set.resolved = time.Now().Add(-resolveInterval)
	if err := set.Refresh(t.Context(), trie); err != nil || len(set.List()) != 2 {
		t.Errorf("knows %v, %v; want the old address and the new one", set.List(), err)
	}
	key := prefixKey{128, netip.MustParseAddr("10.0.0.2").As16()}
	var value uint8
	if err := trie.Lookup(key, &value); err != nil {
		t.Errorf("the kernel does not know the new address: %v", err)
	}
	names.address = ""
	set.resolved = time.Now().Add(-resolveInterval)
	if err := set.Refresh(t.Context(), trie); err == nil || len(set.List()) != 2 {
		t.Errorf("a look-up that failed: %v, %v; want an error and what was known", set.List(), err)
	}
}

// An adopted fault keeps the addresses that were resolved before, and adds
// those of now.
func TestPeersOfAnEarlierProcessAreKept(t *testing.T) {
	trie := newTrie(t)
	earlier := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	if err := putPrefixes(trie, earlier); err != nil {
		t.Fatal(err)
	}
	f, problems := Parse(&v1.Filter{Hosts: []string{"db.test"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	set, err := NewPeers(t.Context(), &f, &moving{"10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Merge(trie); err != nil {
		t.Fatal(err)
	}
	now := slices.Concat(earlier, []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")})
	for _, prefix := range now {
		if !slices.Contains(set.List(), prefix) {
			t.Errorf("knows %v, and not %v", set.List(), prefix)
		}
	}
	if n := entries(t, trie); n != 3 {
		t.Errorf("the kernel was changed: it knows %d", n)
	}
	if err := set.Refresh(t.Context(), trie); err != nil {
		t.Error(err)
	}
	if n := entries(t, trie); n != len(now) {
		t.Errorf("the kernel knows %d, not %v", n, now)
	}
}

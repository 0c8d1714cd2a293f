//go:build linux && privileged

package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

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

func TestHostsAreFollowed(t *testing.T) {
	in := runnable(t, nil)
	trie := in.maps[cgroupskb.ObjectsMapFlPeers]
	f, problems := parseFilter(&v1.Filter{Hosts: []string{"db.test"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	names := &moving{"10.0.0.1"}
	set, err := newPeerSet(t.Context(), &f, names)
	if err != nil {
		t.Fatal(err)
	}
	names.address = "10.0.0.2"
	if err := set.refresh(t.Context(), trie); err != nil || len(set.list()) != 1 {
		t.Errorf("looked up again too early: %v, %v", set.list(), err)
	}
	set.resolved = time.Now().Add(-resolveInterval)
	if err := set.refresh(t.Context(), trie); err != nil || len(set.list()) != 2 {
		t.Errorf("knows %v, %v; want the old address and the new one", set.list(), err)
	}
	key := cgroupskb.ObjectsFlPrefix{Length: 128}
	key.Address.Bytes = netip.MustParseAddr("10.0.0.2").As16()
	var value uint8
	if err := trie.Lookup(key, &value); err != nil {
		t.Errorf("the kernel does not know the new address: %v", err)
	}
	names.address = ""
	set.resolved = time.Now().Add(-resolveInterval)
	if err := set.refresh(t.Context(), trie); err == nil || len(set.list()) != 2 {
		t.Errorf("a look-up that failed: %v, %v; want an error and what was known", set.list(), err)
	}
}

// An adopted fault keeps the addresses that were resolved before, and adds
// those of now.
func TestPeersOfAnEarlierProcessAreKept(t *testing.T) {
	in := runnable(t, nil)
	trie := in.maps[cgroupskb.ObjectsMapFlPeers]
	earlier := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	if err := putPrefixes(trie, earlier); err != nil {
		t.Fatal(err)
	}
	f, problems := parseFilter(&v1.Filter{Hosts: []string{"db.test"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	set, err := newPeerSet(t.Context(), &f, &moving{"10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.merge(trie); err != nil {
		t.Fatal(err)
	}
	now := slices.Concat(earlier, []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")})
	for _, prefix := range now {
		if !slices.Contains(set.list(), prefix) {
			t.Errorf("knows %v, and not %v", set.list(), prefix)
		}
	}
	if lines, err := content(trie); err != nil || len(lines) != 3 {
		t.Errorf("the kernel was changed: %q, %v", lines, err)
	}
	if err := set.refresh(t.Context(), trie); err != nil {
		t.Error(err)
	}
	if lines, err := content(trie); err != nil || len(lines) != len(now) {
		t.Errorf("the kernel knows %q, %v", lines, err)
	}
}

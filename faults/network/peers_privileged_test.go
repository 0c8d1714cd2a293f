//go:build linux && privileged

package network

import (
	"context"
	"errors"
	"net/netip"
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

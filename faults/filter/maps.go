package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// The maps of bpf/include/filter.h.
const (
	PeersMap    = "fl_peers"
	excludedMap = "fl_excluded"
	exemptMap   = "fl_exempt"
	portsMap    = "fl_ports"
)

// portWords is PORT_WORDS of bpf/include/filter.h.
const portWords = 1024

// prefixKey is struct fl_prefix.
type prefixKey struct {
	Length  uint32
	Address [16]byte
}

// endpoint is struct fl_endpoint.
type endpoint struct {
	Address [16]byte
	Port    uint16
	_       uint16
}

// Config is struct fl_filter.
type Config struct {
	Flags    uint32
	Protocol uint32
}

// Flags of enum fl_filter_flag.
const (
	flagPeers         = 1 << 0
	flagExcludedPeers = 1 << 1
	flagPorts         = 1 << 2
	flagLocalPorts    = 1 << 3
	flagExemptSSH     = 1 << 4
	flagExempt        = 1 << 5
	flagNew           = 1 << 6
	flagEstablished   = 1 << 7
	flagNeedsPorts    = 1 << 8
)

// Config is what the programs are told once and for all; exempt are those that Fill
// is given.
func (f *Filter) Config(exempt []netip.AddrPort) Config {
	c := Config{Protocol: protocols[f.Protocol]}
	for flag, set := range map[uint32]bool{
		flagPeers:         !f.Everybody(),
		flagExcludedPeers: len(f.excluded) > 0,
		flagPorts:         f.ports != nil,
		flagLocalPorts:    f.localPorts != nil,
		flagExemptSSH:     f.ExemptSSH,
		flagExempt:        len(exempt) > 0,
		flagNew:           f.Connections == v1.Filter_NEW,
		flagEstablished:   f.Connections == v1.Filter_ESTABLISHED,
		flagNeedsPorts:    f.needsPorts,
	} {
		if set {
			c.Flags |= flag
		}
	}
	return c
}

// protocols has the values of enum fl_filter_protocol; the others are any.
var protocols = map[v1.Filter_Protocol]uint32{v1.Filter_TCP: 1, v1.Filter_UDP: 2, v1.Filter_ICMP: 3}

// Exempt leaves out of some addresses those that the document names itself.
func (s *Peers) Exempt(addresses []netip.AddrPort) (list []netip.AddrPort) {
	for _, address := range addresses {
		if !slices.Contains(s.prefixes, single(address.Addr())) {
			list = append(list, address)
		}
	}
	return list
}

// Fill writes the lists of a filter into the maps of programs: its peers, what it
// leaves out, its ports, and addresses that are never touched.
func (s *Peers) Fill(maps map[string]*ebpf.Map, exempt []netip.AddrPort) error {
	if err := putPrefixes(maps[PeersMap], s.prefixes); err != nil {
		return err
	}
	if err := putPrefixes(maps[excludedMap], s.filter.excluded); err != nil {
		return err
	}
	for first, set := range map[uint32]*portSet{0: s.filter.ports, portWords: s.filter.localPorts} {
		if set == nil {
			continue
		}
		for word, bits := range set {
			if err := maps[portsMap].Put(first+uint32(word), bits); err != nil {
				return fmt.Errorf("writing ports: %w", err)
			}
		}
	}
	for _, address := range exempt {
		key := endpoint{Address: address.Addr().As16(), Port: address.Port()}
		if err := maps[exemptMap].Put(key, uint8(1)); err != nil {
			return fmt.Errorf("writing exempt address %s: %w", address, err)
		}
	}
	return nil
}

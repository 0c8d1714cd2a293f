package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

const sshPort = 22

// filter is a document's filter as the programs need it.
type filter struct {
	egress, ingress bool
	// peers are those of the document; nil with hosts nil means everybody.
	peers    []netip.Prefix
	excluded []netip.Prefix
	hosts    []string
	// nil: every port.
	ports      *portSet
	localPorts *portSet
	// needsPorts: what has no ports does not match.
	needsPorts  bool
	protocol    v1.Filter_Protocol
	connections v1.Filter_Connections
	// exemptSSH leaves TCP port 22 of either side alone.
	exemptSSH bool
}

// ValidateFilter reports everything that is wrong with a filter; paths begin
// with "filter".
func ValidateFilter(spec *v1.Filter) []fault.Problem {
	_, problems := parseFilter(spec)
	return problems
}

func parseFilter(spec *v1.Filter) (filter, []fault.Problem) {
	var problems []fault.Problem
	report := func(path, format string, args ...any) {
		problems = append(problems, fault.Problem{Path: "filter." + path, Message: fmt.Sprintf(format, args...)})
	}
	f := filter{
		egress:      spec.GetDirection() != v1.Filter_INGRESS,
		ingress:     spec.GetDirection() == v1.Filter_INGRESS || spec.GetDirection() == v1.Filter_BOTH,
		peers:       prefixes("peers", spec.GetPeers(), report),
		excluded:    prefixes("excludePeers", spec.GetExcludePeers(), report),
		hosts:       spec.GetHosts(),
		protocol:    spec.GetProtocol(),
		connections: spec.GetConnections(),
		needsPorts:  len(spec.GetPorts()) > 0 || len(spec.GetLocalPorts()) > 0,
		exemptSSH:   !namesPort(spec.GetPorts(), sshPort) && !namesPort(spec.GetLocalPorts(), sshPort),
	}
	for i, host := range f.hosts {
		if !hostName(host) {
			report(fmt.Sprintf("hosts[%d]", i), "%q is no host name; addresses belong into peers", host)
		}
	}
	f.ports = ports("ports", spec.GetPorts(), report)
	f.localPorts = ports("localPorts", spec.GetLocalPorts(), report)
	if excluded := ports("excludePorts", spec.GetExcludePorts(), report); excluded != nil {
		if f.ports == nil {
			f.ports = allPorts()
		}
		f.ports.remove(excluded)
		if f.needsPorts && f.ports.empty() {
			report("excludePorts", "excludes every port of ports, so that nothing could match")
		}
	}
	if f.protocol == v1.Filter_ICMP && f.needsPorts {
		report("protocol", "ICMP has no ports; leave out ports and localPorts, or use TCP or UDP")
	}
	selects := f.connections == v1.Filter_NEW || f.connections == v1.Filter_ESTABLISHED
	if selects && f.protocol != v1.Filter_PROTOCOL_UNSPECIFIED && f.protocol != v1.Filter_TCP {
		report("connections", "%s has no connections; %s is for TCP", f.protocol, f.connections)
	}
	return f, problems
}

func prefixes(field string, texts []string, report func(string, string, ...any)) []netip.Prefix {
	var list []netip.Prefix
	for i, text := range texts {
		prefix, err := parsePrefix(text)
		if err != nil {
			report(fmt.Sprintf("%s[%d]", field, i), "%q is neither an address nor a CIDR such as 10.0.0.0/8 or 2001:db8::/32", text)
			continue
		}
		list = append(list, prefix)
	}
	return list
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return prefix, err
		}
		return prefix.Masked(), nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return single(addr), nil
}

func single(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen())
}

// hostName follows RFC 1123, with underscores, which real names have.
func hostName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, r := range label {
			letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
			if !letter && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}

// resolve looks up every host. A name that does not resolve is an error: it
// must never become "no peers given", which means everybody.
func (f *filter) resolve(ctx context.Context, resolver fault.Resolver) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for _, host := range f.hosts {
		addrs, err := resolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("resolving host %q: %w", host, err)
		}
		if len(addrs) == 0 {
			return nil, fmt.Errorf("resolving host %q: it has no address", host)
		}
		for _, addr := range addrs {
			found = append(found, single(addr))
		}
	}
	return found, nil
}

// everybody tells whether the filter leaves the peer open.
func (f *filter) everybody() bool { return len(f.peers) == 0 && len(f.hosts) == 0 }

// namesPort tells whether port stands in the list by itself; a range that
// happens to contain it does not name it.
func namesPort(texts []string, port uint16) bool {
	return slices.Contains(texts, strconv.Itoa(int(port)))
}

// portSet has one bit for each port, in the layout of the programs' fl_ports.
type portSet [1024]uint64

func allPorts() *portSet {
	var set portSet
	set.add(0, 65535)
	return &set
}

func (s *portSet) add(first, last uint16) {
	for port := int(first); port <= int(last); port++ {
		s[port>>6] |= 1 << (port & 63)
	}
}

func (s *portSet) remove(other *portSet) {
	for i := range s {
		s[i] &^= other[i]
	}
}

func (s *portSet) empty() bool { return *s == portSet{} }

// disjoint tells whether two sets have no port in common; nil is every port.
func (s *portSet) disjoint(other *portSet) bool {
	if s == nil || other == nil {
		return false
	}
	for i := range s {
		if s[i]&other[i] != 0 {
			return false
		}
	}
	return true
}

func ports(field string, texts []string, report func(string, string, ...any)) *portSet {
	if len(texts) == 0 {
		return nil
	}
	set := &portSet{}
	for i, text := range texts {
		first, last, ok := portRange(text)
		if !ok {
			report(fmt.Sprintf("%s[%d]", field, i), "%q is no port; allowed are numbers from 1 to 65535 and ranges such as \"8000-8999\"", text)
			continue
		}
		set.add(first, last)
	}
	return set
}

func portRange(text string) (first, last uint16, ok bool) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	a, errLow := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	b, errHigh := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	ok = errLow == nil && errHigh == nil && a >= 1 && a <= b
	return uint16(a), uint16(b), ok
}

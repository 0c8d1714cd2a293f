// Package filter is the filter of the faults of packets and sockets: whom, and over
// what, a document means.
package filter

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

const sshPort = 22

// Filter is a document's filter as the programs need it.
type Filter struct {
	Egress, Ingress bool
	Protocol        v1.Filter_Protocol
	Connections     v1.Filter_Connections
	// ExemptSSH leaves TCP port 22 of either side alone.
	ExemptSSH bool
	// Hosts are to be resolved.
	Hosts []string

	// peers are those of the document; nil with Hosts nil means everybody.
	peers    []netip.Prefix
	excluded []netip.Prefix
	// nil: every port.
	ports      *portSet
	localPorts *portSet
	// needsPorts: what has no ports does not match.
	needsPorts bool
}

// Validate reports everything that is wrong with a filter; paths begin with
// "filter".
func Validate(spec *v1.Filter) []fault.Problem {
	_, problems := Parse(spec)
	return problems
}

// Parse reads a document's filter. Of one with problems, whose paths begin with
// "filter", only the problems are of use.
func Parse(spec *v1.Filter) (Filter, []fault.Problem) {
	var problems []fault.Problem
	report := func(path, format string, args ...any) {
		problems = append(problems, fault.Problem{Path: "filter." + path, Message: fmt.Sprintf(format, args...)})
	}
	f := Filter{
		Egress:      spec.GetDirection() != v1.Filter_INGRESS,
		Ingress:     spec.GetDirection() == v1.Filter_INGRESS || spec.GetDirection() == v1.Filter_BOTH,
		peers:       prefixes("peers", spec.GetPeers(), report),
		excluded:    prefixes("excludePeers", spec.GetExcludePeers(), report),
		Hosts:       spec.GetHosts(),
		Protocol:    spec.GetProtocol(),
		Connections: spec.GetConnections(),
		needsPorts:  len(spec.GetPorts()) > 0 || len(spec.GetLocalPorts()) > 0,
		ExemptSSH:   !namesPort(spec.GetPorts(), sshPort) && !namesPort(spec.GetLocalPorts(), sshPort),
	}
	for i, host := range f.Hosts {
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
	if f.Protocol == v1.Filter_ICMP && f.needsPorts {
		report("protocol", "ICMP has no ports; leave out ports and localPorts, or use TCP or UDP")
	}
	selects := f.Connections == v1.Filter_NEW || f.Connections == v1.Filter_ESTABLISHED
	if selects && f.Protocol != v1.Filter_PROTOCOL_UNSPECIFIED && f.Protocol != v1.Filter_TCP {
		report("connections", "%s has no connections; %s is for TCP", f.Protocol, f.Connections)
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
func (f *Filter) resolve(ctx context.Context, resolver fault.Resolver) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for _, host := range f.Hosts {
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

// Everybody tells whether the filter leaves the peer open.
func (f *Filter) Everybody() bool { return len(f.peers) == 0 && len(f.Hosts) == 0 }

// Disjoint tells whether some field but the peers shows that nothing can match both.
func (f *Filter) Disjoint(o *Filter) bool {
	if (!f.Egress || !o.Egress) && (!f.Ingress || !o.Ingress) {
		return true
	}
	if f.Protocol != v1.Filter_PROTOCOL_UNSPECIFIED && o.Protocol != v1.Filter_PROTOCOL_UNSPECIFIED &&
		f.Protocol != o.Protocol {
		return true
	}
	opens := func(a, b *Filter) bool {
		return a.Connections == v1.Filter_NEW && b.Connections == v1.Filter_ESTABLISHED
	}
	if opens(f, o) || opens(o, f) {
		return true
	}
	if f.needsPorts || o.needsPorts {
		return f.ports.disjoint(o.ports) || f.localPorts.disjoint(o.localPorts)
	}
	return false
}

// Describe says in words, one for each field, what a document's filter selects; its
// direction is left to the caller.
func Describe(spec *v1.Filter) (parts []string) {
	if spec.GetProtocol() != v1.Filter_PROTOCOL_UNSPECIFIED {
		parts = append(parts, spec.GetProtocol().String())
	}
	for _, field := range []struct {
		label string
		texts []string
	}{
		{"peers", spec.GetPeers()},
		{"except", spec.GetExcludePeers()},
		{"hosts", spec.GetHosts()},
		{"ports", spec.GetPorts()},
		{"except ports", spec.GetExcludePorts()},
		{"local ports", spec.GetLocalPorts()},
	} {
		if len(field.texts) > 0 {
			parts = append(parts, field.label+" "+strings.Join(field.texts, ", "))
		}
	}
	if c := spec.GetConnections(); c == v1.Filter_NEW || c == v1.Filter_ESTABLISHED {
		parts = append(parts, strings.ToLower(c.String())+" connections")
	}
	return parts
}

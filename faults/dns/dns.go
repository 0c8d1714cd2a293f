// Package dns holds the fault of name resolution: what the target asks name servers is
// led to a resolver of ours (bpf/dns), which answers wrongly what the fault is about, and
// passes everything else on, unchanged, to the server that was asked.
package dns

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

const mechanismResolver = "resolver"

// serverPort is where name servers listen, if the filter does not say.
const serverPort = "53"

// Kinds are the kinds of the family.
func Kinds() []fault.Kind { return []fault.Kind{Fault()} }

// Fault is dnsFault: names that can't be looked up, or lead elsewhere.
func Fault() fault.Kind {
	return fault.Kind{
		Name:    "dnsFault",
		Summary: "name lookups get NXDOMAIN, SERVFAIL, REFUSED, no answer or a wrong address, by name pattern and record type",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismResolver,
				Summary: "the cgroup's socket hooks lead queries to a resolver of ours on loopback of the target's network namespace",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupConnect},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
dnsFault: {names: ["*.example.com"], types: [A, AAAA], answer: NXDOMAIN}
duration: 60s`,
		Validate: validate,
		Plan:     newPlan,
	}
}

// namePattern is a host name whose first label may be *, or * alone.
var namePattern = regexp.MustCompile(`^(\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?)$`)

func validate(spec *v1.Fault) []fault.Problem {
	dns := spec.GetDnsFault()
	p := check.Problems{Prefix: "dnsFault"}
	if len(dns.GetNames()) == 0 {
		p.Add("names", `is missing; give at least one pattern such as "*.example.com", or "*" for every name`)
	}
	for i, name := range dns.GetNames() {
		if len(name) > 253 || !namePattern.MatchString(name) {
			p.Add(fmt.Sprintf("names[%d]", i), `%q is no pattern of a name; allowed are "db.example.com", "*.example.com" and "*"`, name)
		}
	}
	withAddress := dns.GetAnswer() == v1.DnsFault_ADDRESS || dns.GetAnswer() == v1.DnsFault_RANDOM_ADDRESS
	for i, kind := range dns.GetTypes() {
		_, known := recordTypes[kind]
		switch at := fmt.Sprintf("types[%d]", i); {
		case !known:
			p.Add(at, "unknown record type %q (allowed: %s)", kind, strings.Join(typeNames(), ", "))
		case withAddress && kind != "A" && kind != "AAAA":
			p.Add(at, "%s has no address; with the answer %s only A and AAAA are allowed", kind, dns.GetAnswer())
		}
	}
	if _, known := v1.DnsFault_Answer_name[int32(dns.GetAnswer())]; !known || dns.GetAnswer() == v1.DnsFault_ANSWER_UNSPECIFIED {
		p.Add("answer", "is missing; give one of NXDOMAIN, SERVFAIL, REFUSED, TIMEOUT, ADDRESS, RANDOM_ADDRESS")
	}
	switch _, err := netip.ParseAddr(dns.GetAddress()); {
	case dns.GetAnswer() != v1.DnsFault_ADDRESS && dns.GetAddress() != "":
		p.Add("address", "belongs to the answer ADDRESS only")
	case dns.GetAnswer() == v1.DnsFault_ADDRESS && dns.GetAddress() == "":
		p.Add("address", "is missing; the answer ADDRESS needs an IPv4 or IPv6 address")
	case dns.GetAnswer() == v1.DnsFault_ADDRESS && err != nil:
		p.Add("address", "%q is not an IPv4 or IPv6 address", dns.GetAddress())
	}
	return append(append(p.List(), filter.Validate(spec.GetFilter())...), validateFilter(spec.GetFilter())...)
}

// validateFilter reports what of a filter is not about the name servers.
func validateFilter(f *v1.Filter) []fault.Problem {
	p := check.Problems{Prefix: "filter"}
	for _, field := range []struct {
		name string
		used bool
	}{
		{"direction", f.GetDirection() != v1.Filter_DIRECTION_UNSPECIFIED},
		{"connections", f.GetConnections() == v1.Filter_NEW || f.GetConnections() == v1.Filter_ESTABLISHED},
		{"localPorts", len(f.GetLocalPorts()) > 0},
	} {
		if field.used {
			p.Add(field.name, "has no meaning for dnsFault, whose filter is about the name servers that are asked; leave it out")
		}
	}
	if f.GetProtocol() == v1.Filter_ICMP {
		p.Add("protocol", "ICMP asks no name servers; use TCP or UDP, or leave it out")
	}
	return p.List()
}

// plan is what a dnsFault is planned from.
type plan struct {
	req    fault.Request
	spec   *v1.DnsFault
	filter filter.Filter
	peers  *filter.Peers
}

func newPlan(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p := &plan{req: req, spec: req.Spec.GetDnsFault()}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of dnsFault is %w, as the resolver ends with this process; leave it out", fault.ErrUnavailable)
	}
	// It was validated.
	p.filter, _ = filter.Parse(servers(req.Spec.GetFilter()))
	var err error
	if p.peers, err = filter.NewPeers(ctx, &p.filter, req.Resolver); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Fault(), []string{mechanismResolver},
		func(string) (*tracing.Fault, error) { return p.check() })
	if err != nil {
		return nil, err
	}
	changes, warnings, err := p.resolverChanges()
	if err != nil {
		return nil, err
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(),
		Changes:   append(changes, programs.Changes(mechanism)...),
		Warnings:  warnings,
		Claims:    []fault.Claim{Queries{Cgroups: req.Cgroups}},
		Inject:    p.inject,
	}, nil
}

// servers is a filter of a document, with the ports that are meant when it names none.
func servers(given *v1.Filter) *v1.Filter {
	f := &v1.Filter{
		Peers: given.GetPeers(), ExcludePeers: given.GetExcludePeers(), Hosts: given.GetHosts(), Ports: given.GetPorts(),
		ExcludePorts: given.GetExcludePorts(), Protocol: given.GetProtocol(),
	}
	if len(f.GetPorts()) == 0 {
		f.Ports = []string{serverPort}
	}
	return f
}

// check returns ErrUnavailable when the kernel does not take the programs.
func (p *plan) check() (*tracing.Fault, error) {
	f, err := p.programs(config{})
	if err != nil {
		return nil, err
	}
	_, err = f.Prune("dnsFault", mechanismResolver)
	return f, err
}

func (p *plan) summary() string {
	what := p.spec.GetAnswer().String()
	if p.spec.GetAddress() != "" {
		what += " " + p.spec.GetAddress()
	}
	text := fmt.Sprintf("questions for %s are answered by %s", strings.Join(p.spec.GetNames(), ", "), what)
	if len(p.spec.GetTypes()) > 0 {
		text = strings.Join(p.spec.GetTypes(), ", ") + " " + text
	}
	if parts := filter.Describe(p.req.Spec.GetFilter()); len(parts) > 0 {
		text += ", of servers: " + strings.Join(parts, "; ")
	}
	if p.req.Observe {
		return "only count: " + text
	}
	return text
}

// Queries claims what cgroups ask name servers.
type Queries struct{ Cgroups []fault.Cgroup }

// QueriesKind is the name of Queries where claims are stored.
const QueriesKind = "queries"

// Kind implements fault.Claim.
func (Queries) Kind() string { return QueriesKind }

// Conflict implements fault.Claim. What has been led to one resolver can't be led to
// another.
func (q Queries) Conflict(other fault.Claim) string {
	o, ok := other.(Queries)
	if !ok {
		return ""
	}
	if path := fault.Shared(q.Cgroups, o.Cgroups); path != "" {
		return "the name lookups of " + path
	}
	return ""
}

func typeNames() []string {
	var names []string
	for name := range recordTypes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

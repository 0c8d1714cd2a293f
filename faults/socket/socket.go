// Package socket holds the faults of socket calls and of name resolution.
package socket

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/network"
)

// Kinds are the kinds of the family. None is built yet.
func Kinds() []fault.Kind { return []fault.Kind{socketError(), dnsFault()} }

func socketError() fault.Kind {
	return fault.Kind{
		Name:    "socketError",
		Summary: "connect, bind, listen, accept, send, recv, getsockopt or setsockopt fail with an errno",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "cgroup_sock",
				Summary: "links on the cgroup's socket hooks choose the errno; for connect, bind, send, getsockopt and setsockopt",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupConnect, kernel.SetRetval},
			},
			{
				Name:    "lsm_cgroup",
				Summary: "LSM programs on the cgroup alone",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSMCgroup},
			},
			{
				Name:    "fmod_ret_security",
				Summary: "fmod_ret on security_socket_*, matched by cgroup id",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity},
			},
			{
				Name:    "fmod_ret",
				Summary: "fmod_ret on the system calls, matched by cgroup id",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSyscall},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
socketError: {operations: [CONNECT], errno: ECONNREFUSED}
filter: {peers: [10.0.0.0/8], ports: ["5432"]}
rate: {probability: 0.2}
duration: 60s`,
		Validate: validateSocketError,
	}
}

func validateSocketError(spec *v1.Fault) []fault.Problem {
	p := check.Problems{Prefix: "socketError"}
	check.Choices(&p, "operations", spec.GetSocketError().GetOperations(), []v1.SocketError_Operation{
		v1.SocketError_CONNECT, v1.SocketError_BIND, v1.SocketError_LISTEN, v1.SocketError_ACCEPT,
		v1.SocketError_SEND, v1.SocketError_RECV, v1.SocketError_GETSOCKOPT, v1.SocketError_SETSOCKOPT,
	})
	p.Errno("errno", spec.GetSocketError().GetErrno())
	return append(p.List(), network.ValidateFilter(spec.GetFilter())...)
}

func dnsFault() fault.Kind {
	return fault.Kind{
		Name:    "dnsFault",
		Summary: "name lookups get NXDOMAIN, SERVFAIL, REFUSED, no answer or a wrong address, by name pattern",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    "resolver",
				Summary: "the cgroup's socket hooks lead queries to a resolver of ours in the target's network namespace",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupConnect},
			},
			{
				Name:    "drop",
				Summary: "cgroup_skb drops the queries; for the answer TIMEOUT",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupSKB},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
dnsFault: {names: ["*.example.com"], types: [A, AAAA], answer: NXDOMAIN}
duration: 60s`,
		Validate: validateDNSFault,
	}
}

// recordTypes are those that programs ask for.
var recordTypes = []string{"A", "AAAA", "ANY", "CAA", "CNAME", "HTTPS", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"}

// namePattern is a host name whose first label may be *, or * alone.
var namePattern = regexp.MustCompile(`^(\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?)$`)

func validateDNSFault(spec *v1.Fault) []fault.Problem {
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
	for i, kind := range dns.GetTypes() {
		if !slices.Contains(recordTypes, kind) {
			p.Add(fmt.Sprintf("types[%d]", i), "unknown record type %q (allowed: %s)", kind, strings.Join(recordTypes, ", "))
		}
	}
	if dns.GetAnswer() == v1.DnsFault_ANSWER_UNSPECIFIED {
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
	return append(p.List(), network.ValidateFilter(spec.GetFilter())...)
}

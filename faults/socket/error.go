package socket

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/sockets"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// The mechanisms.
const (
	mechanismCgroup = "cgroup_sock"
	mechanismLSM    = tracing.MechanismLSM
	mechanismModify = tracing.MechanismModify
)

// Error is socketError: calls of sockets that fail and are not carried out.
func Error() fault.Kind {
	return fault.Kind{
		Name:    "socketError",
		Summary: "connect, bind, listen, accept, send, recv, getsockopt or setsockopt fail with an errno, by peer, port and family",
		Scope:   fault.ScopeCgroup,
		Mechanisms: []fault.Mechanism{
			{
				Name:    mechanismCgroup,
				Summary: "links on the socket hooks of the cgroup, which nobody else meets; for CONNECT, BIND, GETSOCKOPT and SETSOCKOPT",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.CgroupConnect, kernel.SetRetval, kernel.RingBuf},
			},
			{
				Name:    mechanismLSM,
				Summary: "programs that the kernel asks as a security module",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.LSM, kernel.RingBuf},
			},
			{
				Name:    mechanismModify,
				Summary: "fmod_ret on the functions that ask all security modules",
				Needs:   []kernel.Capability{kernel.CgroupV2, kernel.FmodRetSecurity, kernel.RingBuf},
			},
		},
		Example: `target: {systemdUnit: checkout.service}
socketError: {operations: [CONNECT], errno: ECONNREFUSED}
filter: {peers: [10.0.0.0/8], ports: ["5432"]}
rate: {probability: 0.2}
duration: 60s`,
		Validate: validateError,
		Plan:     planError,
	}
}

// operations are all of them.
var operations = []v1.SocketError_Operation{
	v1.SocketError_CONNECT, v1.SocketError_BIND, v1.SocketError_LISTEN, v1.SocketError_ACCEPT,
	v1.SocketError_SEND, v1.SocketError_RECV, v1.SocketError_GETSOCKOPT, v1.SocketError_SETSOCKOPT,
}

// withoutPeer are those at which the kernel does not know a peer, or not yet.
var withoutPeer = []v1.SocketError_Operation{v1.SocketError_BIND, v1.SocketError_LISTEN, v1.SocketError_ACCEPT}

// families has the kernel's numbers of them (AF_*).
var families = map[v1.SocketError_Family]uint{
	v1.SocketError_IPV4: unix.AF_INET, v1.SocketError_IPV6: unix.AF_INET6, v1.SocketError_UNIX: unix.AF_UNIX,
	v1.SocketError_NETLINK: unix.AF_NETLINK, v1.SocketError_PACKET: unix.AF_PACKET, v1.SocketError_VSOCK: unix.AF_VSOCK,
}

func validateError(spec *v1.Fault) []fault.Problem {
	what := spec.GetSocketError()
	p := check.Problems{Prefix: "socketError"}
	check.Choices(&p, "operations", what.GetOperations(), operations)
	p.Errno("errno", what.GetErrno())
	if len(what.GetFamilies()) > 0 {
		check.Choices(&p, "families", what.GetFamilies(), []v1.SocketError_Family{
			v1.SocketError_IPV4, v1.SocketError_IPV6, v1.SocketError_UNIX,
			v1.SocketError_NETLINK, v1.SocketError_PACKET, v1.SocketError_VSOCK,
		})
	}
	list := append(p.List(), filter.Validate(spec.GetFilter())...)
	return append(list, validateFilter(spec)...)
}

// validateFilter reports what of a filter can't be told of a call.
func validateFilter(spec *v1.Fault) []fault.Problem {
	f, what := spec.GetFilter(), spec.GetSocketError()
	p := check.Problems{Prefix: "filter"}
	if f.GetDirection() != v1.Filter_DIRECTION_UNSPECIFIED {
		p.Add("direction", "has no meaning for socketError, whose operations say it; leave it out")
	}
	if f.GetConnections() == v1.Filter_NEW || f.GetConnections() == v1.Filter_ESTABLISHED {
		p.Add("connections", "has no meaning for socketError, which is about calls; leave it out")
	}
	others := slices.ContainsFunc(what.GetFamilies(), func(family v1.SocketError_Family) bool {
		return family != v1.SocketError_IPV4 && family != v1.SocketError_IPV6
	})
	if others && f != nil {
		p.Add("", "has no meaning for families other than IPV4 and IPV6, which have no peers and ports of IP; make them a fault of their own")
	}
	i := slices.IndexFunc(what.GetOperations(), func(o v1.SocketError_Operation) bool { return slices.Contains(withoutPeer, o) })
	if i < 0 {
		return p.List()
	}
	for _, field := range []struct {
		name string
		used bool
	}{
		{"peers", len(f.GetPeers()) > 0},
		{"excludePeers", len(f.GetExcludePeers()) > 0},
		{"hosts", len(f.GetHosts()) > 0},
		{"ports", len(f.GetPorts()) > 0},
		{"excludePorts", len(f.GetExcludePorts()) > 0},
	} {
		if field.used {
			p.Add(field.name, "can't be told of %s, which comes before the kernel knows a peer; use localPorts, or make it a fault of its own", what.GetOperations()[i])
		}
	}
	return p.List()
}

// errorPlan is what a socketError is planned from.
type errorPlan struct {
	req     fault.Request
	spec    *v1.SocketError
	failure tracing.Failure
	filter  filter.Filter
	peers   *filter.Peers
}

func planError(ctx context.Context, req fault.Request) (*fault.Plan, error) {
	p := &errorPlan{req: req, spec: req.Spec.GetSocketError()}
	if req.Spec.GetPersistence() == v1.Fault_PINNED {
		return nil, fmt.Errorf("persistence PINNED of socketError is %w; leave it out", fault.ErrNotBuilt)
	}
	// It was validated.
	p.filter, _ = filter.Parse(req.Spec.GetFilter())
	var err error
	if p.failure, err = tracing.NewFailure(req, tracing.Errno{Name: p.spec.GetErrno(), Weight: 1}); err != nil {
		return nil, err
	}
	if p.peers, err = filter.NewPeers(ctx, &p.filter, req.Resolver); err != nil {
		return nil, err
	}
	mechanism, programs, err := tracing.Choose(ctx, req, Error(), p.ladder(),
		func(mechanism string) (*tracing.Fault, error) { return p.programs(ctx, mechanism) })
	if err != nil {
		return nil, err
	}
	return &fault.Plan{
		Mechanism: mechanism,
		Summary:   p.summary(),
		Changes:   programs.Changes(mechanism),
		Warnings:  p.warnings(mechanism),
		Inject:    programs.Inject,
	}, nil
}

// ladder is what auto may take: the hooks of the cgroup, if they know all that is
// wanted.
func (p *errorPlan) ladder() []string {
	ladder := []string{mechanismLSM, mechanismModify}
	if p.beyondCgroup() == "" {
		ladder = append([]string{mechanismCgroup}, ladder...)
	}
	return ladder
}

// beyondCgroup says what the hooks of cgroups don't know; "" for nothing.
func (p *errorPlan) beyondCgroup() string {
	for _, o := range p.spec.GetOperations() {
		if cgroupHooks[o] == nil {
			return "operation " + o.String()
		}
	}
	for _, family := range p.spec.GetFamilies() {
		if family != v1.SocketError_IPV4 && family != v1.SocketError_IPV6 {
			return "family " + family.String()
		}
	}
	return ""
}

// programs are those that a mechanism puts in place. The error is ErrUnavailable where
// the kernel does not take one.
func (p *errorPlan) programs(ctx context.Context, mechanism string) (*tracing.Fault, error) {
	load := sockets.LoadObjects
	if !p.req.Prober.Probe(ctx, kernel.AtomicFetch).OK() {
		load = sockets.LoadOldObjects
	}
	spec, err := load()
	if err != nil {
		return nil, err
	}
	config := socketConfig{Families: p.families(), Filter: p.filter.Config(p.exempt())}
	if mechanism != mechanismCgroup {
		if config.Layout, err = readLayout(); err != nil {
			return nil, err
		}
	}
	if err := spec.Variables[sockets.ObjectsVarFlSocketConfig].Set(config); err != nil {
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	filled := false
	f := &tracing.Fault{
		Spec: spec, Cgroups: p.req.Cgroups, Failure: p.failure, Decode: events.Decoder((*socketEvent).event),
		Keep: func(ctx context.Context, maps map[string]*ebpf.Map) error {
			if filled {
				return p.peers.Refresh(ctx, maps[filter.PeersMap])
			}
			filled = true
			return p.peers.Fill(maps, p.exempt())
		},
	}
	if f.Hooks, err = p.hooks(mechanism); err != nil {
		return nil, err
	}
	_, err = f.Prune("socketError", mechanism) // nothing of it is for 32 bits alone
	return f, err
}

func (p *errorPlan) hooks(mechanism string) (list []tracing.Hook, err error) {
	if mechanism == mechanismCgroup {
		if what := p.beyondCgroup(); what != "" {
			return nil, fmt.Errorf("mechanism %s can't do %s, for which cgroups have no hook; leave mechanism out", mechanism, what)
		}
		for _, o := range p.spec.GetOperations() {
			for _, hook := range cgroupHooks[o] {
				hook.Variables = map[string]any{sockets.ObjectsVarFlHook: tracing.HookConfig{Operation: uint32(o)}}
				list = append(list, hook)
			}
		}
		return list, nil
	}
	var wanted []tracing.SecurityHook
	for _, o := range p.spec.GetOperations() {
		hook := securityHooks[o]
		hook.Operation, hook.What = uint32(o), o.String()
		wanted = append(wanted, hook)
	}
	return tracing.AtSecurityHooks(mechanism, wanted)
}

// exempt are the addresses that are never touched.
func (p *errorPlan) exempt() []netip.AddrPort { return p.peers.Exempt(p.req.Exempt) }

// families has a bit for each.
func (p *errorPlan) families() (bits uint64) {
	list := p.spec.GetFamilies()
	if len(list) == 0 {
		list = []v1.SocketError_Family{v1.SocketError_IPV4, v1.SocketError_IPV6}
	}
	for _, family := range list {
		bits |= 1 << families[family]
	}
	return bits
}

func (p *errorPlan) warnings(mechanism string) (list []string) {
	f := p.req.Spec.GetFilter()
	byPeer := !p.filter.Everybody() || len(f.GetPorts()) > 0
	if byPeer && slices.Contains(p.spec.GetOperations(), v1.SocketError_RECV) {
		list = append(list, "RECV of a socket that is not connected is not hit: its peer is known only when something has come")
	}
	if mechanism == mechanismCgroup {
		list = append(list, "hit are sockets that were made in the cgroup; one that was handed over, as systemd's socket activation does, is its maker's")
	}
	return list
}

func (p *errorPlan) summary() string {
	text := fmt.Sprintf("%s fail with %s", join(p.spec.GetOperations()), p.spec.GetErrno())
	if list := p.spec.GetFamilies(); len(list) > 0 {
		text += ", of " + join(list)
	}
	if parts := filter.Describe(p.req.Spec.GetFilter()); len(parts) > 0 {
		text += ": " + strings.Join(parts, "; ")
	}
	if p.req.Observe {
		return "only count: " + text
	}
	return text
}

func join[E fmt.Stringer](list []E) string {
	var names []string
	for _, e := range list {
		names = append(names, e.String())
	}
	return strings.Join(names, ", ")
}

package socket

import (
	"sync"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/sockets"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/tracing"
)

// The shapes of bpf/sockets: what a call gives beside the socket.
const (
	ofSocket  tracing.Shape = "plain"
	ofPeer    tracing.Shape = "peer"
	ofOwn     tracing.Shape = "own"
	ofMessage tracing.Shape = "message"
)

// securityHooks are those of the operations, at which every process is met.
var securityHooks = map[v1.SocketError_Operation]tracing.SecurityHook{
	v1.SocketError_CONNECT:    {Name: "socket_connect", Shape: ofPeer},
	v1.SocketError_BIND:       {Name: "socket_bind", Shape: ofOwn},
	v1.SocketError_LISTEN:     {Name: "socket_listen", Shape: ofSocket},
	v1.SocketError_ACCEPT:     {Name: "socket_accept", Shape: ofSocket},
	v1.SocketError_SEND:       {Name: "socket_sendmsg", Shape: ofMessage},
	v1.SocketError_RECV:       {Name: "socket_recvmsg", Shape: ofSocket},
	v1.SocketError_GETSOCKOPT: {Name: "socket_getsockopt", Shape: ofSocket},
	v1.SocketError_SETSOCKOPT: {Name: "socket_setsockopt", Shape: ofSocket},
}

// cgroupHooks are those of cgroups. There is none for LISTEN, ACCEPT and RECV, and for
// SEND one that is asked for datagrams with an address alone.
var cgroupHooks = map[v1.SocketError_Operation][]tracing.Hook{
	v1.SocketError_CONNECT: {
		{Function: "cgroup/connect4", Program: sockets.ObjectsProgFlConnect4, Name: "connect4"},
		{Function: "cgroup/connect6", Program: sockets.ObjectsProgFlConnect6, Name: "connect6"},
	},
	v1.SocketError_BIND: {
		{Function: "cgroup/bind4", Program: sockets.ObjectsProgFlBind4, Name: "bind4"},
		{Function: "cgroup/bind6", Program: sockets.ObjectsProgFlBind6, Name: "bind6"},
	},
	v1.SocketError_GETSOCKOPT: {
		{Function: "cgroup/getsockopt", Program: sockets.ObjectsProgFlGetsockopt, Name: "getsockopt"},
	},
	v1.SocketError_SETSOCKOPT: {
		{Function: "cgroup/setsockopt", Program: sockets.ObjectsProgFlSetsockopt, Name: "setsockopt"},
	},
}

// layout is struct fl_socket_layout.
type layout struct {
	Sock        uint32
	Family      uint32
	Protocol    uint32
	LocalPort   uint32
	PeerPort    uint32
	PeerIPv4    uint32
	PeerIPv6    uint32
	MessageName uint32
}

// socketConfig is struct fl_socket_config.
type socketConfig struct {
	Families uint64
	Filter   filter.Config
	Layout   layout
}

// readLayout asks the kernel's types, which don't change.
var readLayout = sync.OnceValues(func() (layout, error) {
	var l layout
	err := kernel.Offsets(map[string]*uint32{
		"socket.sk":                     &l.Sock,
		"sock.__sk_common.skc_family":   &l.Family,
		"sock.sk_protocol":              &l.Protocol,
		"sock.__sk_common.skc_num":      &l.LocalPort,
		"sock.__sk_common.skc_dport":    &l.PeerPort,
		"sock.__sk_common.skc_daddr":    &l.PeerIPv4,
		"sock.__sk_common.skc_v6_daddr": &l.PeerIPv6,
		"msghdr.msg_name":               &l.MessageName,
	})
	return l, err
})

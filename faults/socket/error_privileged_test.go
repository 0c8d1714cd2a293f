//go:build linux && privileged

package socket_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/socket"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// injected is what the faults of these tests answer: no call here does so by itself.
const injected = unix.ENOTNAM

// eachMechanism runs a test with every mechanism of the kernel.
func eachMechanism(t *testing.T, test func(t *testing.T, mechanism string)) {
	t.Helper()
	env.EachMechanism(t, socket.Error(), test)
}

// fails is a fault; "" is any mechanism.
func fails(mechanism string, operations ...v1.SocketError_Operation) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_SocketError{SocketError: &v1.SocketError{Operations: operations, Errno: "ENOTNAM"}},
	}
}

func inject(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, socket.Error(), spec, nil, targets...)
}

func expect(t *testing.T, what string, got, want env.Results) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func expectCounters(t *testing.T, i *env.Injected, matched, hit uint64) {
	t.Helper()
	want := fault.Counters{Matched: matched, Injected: hit}
	if c := i.Count(); c != want {
		t.Errorf("counters %+v, want %+v", c, want)
	}
}

// serve takes connections of the test's own sockets, over loopback and a file, and
// never answers.
func serve(t *testing.T, network env.Network) (tcp4, tcp6, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "socket")
	listen := func(kind, address string) string {
		var listener net.Listener
		network.A.Do(func() (err error) { listener, err = net.Listen(kind, address); return err })
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = connection.Close() })
			}
		}()
		return listener.Addr().String()
	}
	listen("unix", file)
	return listen("tcp4", "127.0.0.1:0"), listen("tcp6", "[::1]:0"), file
}

// inCgroupHooks are the operations that cgroups have hooks for.
func inCgroupHooks(o v1.SocketError_Operation) bool {
	return o == v1.SocketError_CONNECT || o == v1.SocketError_BIND || o == v1.SocketError_GETSOCKOPT || o == v1.SocketError_SETSOCKOPT
}

func TestEachOperationFails(t *testing.T) {
	network := env.NewLoopback(t)
	tcp4, tcp6, file := serve(t, network)
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		inside, outside := newCaller(t, target, network), newCaller(t, neighbour, network)
		for _, tt := range []struct {
			operation v1.SocketError_Operation
			call      string
			errno     unix.Errno
		}{
			{v1.SocketError_CONNECT, "connect tcp4 " + tcp4, 0},
			{v1.SocketError_CONNECT, "connect tcp6 " + tcp6, 0},
			{v1.SocketError_CONNECT, "connect tcp6 [::ffff:127.0.0.1]" + tcp4[strings.LastIndex(tcp4, ":"):], 0},
			{v1.SocketError_CONNECT, "connect tcp4 127.0.0.1:1", unix.ECONNREFUSED},
			{v1.SocketError_CONNECT, "connect udp4 127.0.0.1:9", 0},
			{v1.SocketError_CONNECT, "connect udp6 [::1]:9", 0},
			{v1.SocketError_BIND, "bind tcp4 127.0.0.1:0", 0},
			{v1.SocketError_BIND, "bind udp6 [::1]:0", 0},
			{v1.SocketError_LISTEN, "listen tcp4 127.0.0.1:0", 0},
			{v1.SocketError_LISTEN, "listen tcp6 [::1]:0", 0},
			{v1.SocketError_ACCEPT, "accept tcp4 127.0.0.1:0", unix.EAGAIN},
			{v1.SocketError_SEND, "send tcp4 " + tcp4, 0},
			{v1.SocketError_SEND, "write tcp6 " + tcp6, 0},
			{v1.SocketError_SEND, "sendto udp4 127.0.0.1:9", 0},
			{v1.SocketError_RECV, "recv tcp4 " + tcp4, unix.EAGAIN},
			{v1.SocketError_RECV, "recv udp6 [::1]:9", unix.EAGAIN},
			{v1.SocketError_GETSOCKOPT, "getsockopt tcp4 " + tcp4, 0},
			{v1.SocketError_SETSOCKOPT, "setsockopt tcp6 " + tcp6, 0},
			{v1.SocketError_SETSOCKOPT, "set-long tcp4 " + tcp4, 0},
			{v1.SocketError_CONNECT, "connect unix " + file, 0},
			{v1.SocketError_SEND, "write unix " + file, 0},
			{v1.SocketError_BIND, "bind netlink -", 0},
		} {
			isIP := !strings.Contains(tt.call, "unix") && !strings.Contains(tt.call, "netlink")
			if mechanism == "cgroup_sock" && !(isIP && inCgroupHooks(tt.operation)) {
				continue
			}
			t.Run(tt.call, func(t *testing.T) {
				const times = 12
				expect(t, "before", inside.do(t, tt.call, times), env.Results{tt.errno: times})
				spec := fails(mechanism, tt.operation)
				spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
				if !isIP {
					spec.GetSocketError().Families = []v1.SocketError_Family{v1.SocketError_UNIX, v1.SocketError_NETLINK}
				}
				i := inject(t, spec, target)
				outside.begin(tt.call, times)
				expect(t, "of the target", inside.do(t, tt.call, times), env.Results{injected: times / 3, tt.errno: times - times/3})
				expect(t, "of the neighbour", outside.end(t), env.Results{tt.errno: times})
				expectCounters(t, i, times, times/3)
				i.End()
				expect(t, "afterwards", inside.do(t, tt.call, times), env.Results{tt.errno: times})
			})
		}
	})
}

func TestFiltersOfSockets(t *testing.T) {
	network := env.NewLoopback(t)
	tcp4, tcp6, file := serve(t, network)
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		inside := newCaller(t, target, network)
		for _, tt := range []struct {
			name      string
			operation v1.SocketError_Operation
			families  []v1.SocketError_Family
			filter    *v1.Filter
			hit, not  []string
		}{
			{"peer", v1.SocketError_CONNECT, nil, &v1.Filter{Peers: []string{"127.0.0.0/8"}},
				[]string{"connect tcp4 " + tcp4, "connect udp4 127.1.1.1:9", "connect tcp6 [::ffff:127.0.0.1]:" + port(tcp4)}, []string{"connect tcp6 " + tcp6}},
			{"but a peer", v1.SocketError_CONNECT, nil, &v1.Filter{ExcludePeers: []string{"::1"}},
				[]string{"connect tcp4 " + tcp4}, []string{"connect tcp6 " + tcp6}},
			{"port", v1.SocketError_CONNECT, nil, &v1.Filter{Ports: []string{port(tcp6)}},
				[]string{"connect tcp6 " + tcp6, "connect udp4 127.0.0.1:" + port(tcp6)}, []string{"connect tcp4 " + tcp4}},
			{"protocol", v1.SocketError_CONNECT, nil, &v1.Filter{Protocol: v1.Filter_UDP},
				[]string{"connect udp4 127.0.0.1:9"}, []string{"connect tcp4 " + tcp4}},
			{"family", v1.SocketError_CONNECT, []v1.SocketError_Family{v1.SocketError_IPV6}, nil,
				[]string{"connect tcp6 " + tcp6}, []string{"connect tcp4 " + tcp4, "connect unix " + file}},
			{"IP", v1.SocketError_CONNECT, nil, nil,
				[]string{"connect tcp6 " + tcp6, "connect tcp4 " + tcp4}, []string{"connect unix " + file}},
			{"own port", v1.SocketError_BIND, nil, &v1.Filter{LocalPorts: []string{"7001-7003"}},
				[]string{"bind tcp4 127.0.0.1:7002", "bind tcp6 [::1]:7003"}, []string{"bind tcp4 127.0.0.1:7004", "bind tcp4 127.0.0.1:0"}},
			{"SSH, which nobody has named", v1.SocketError_CONNECT, nil, &v1.Filter{Ports: []string{"1-100"}},
				[]string{"connect udp4 127.0.0.1:22", "connect tcp4 127.0.0.1:21"}, []string{"connect tcp4 127.0.0.1:22"}},
			{"port of a listener", v1.SocketError_ACCEPT, nil, &v1.Filter{LocalPorts: []string{"7001"}},
				[]string{"accept tcp4 127.0.0.1:7001"}, []string{"accept tcp4 127.0.0.1:7002"}},
			{"address of a datagram", v1.SocketError_SEND, nil, &v1.Filter{Ports: []string{"9"}},
				[]string{"sendto udp4 127.0.0.1:9", "send udp6 [::1]:9"}, []string{"sendto udp4 127.0.0.1:10", "send tcp4 " + tcp4}},
			{"peer of a connection", v1.SocketError_SEND, nil, &v1.Filter{Peers: []string{"::1"}, Ports: []string{port(tcp6)}, Protocol: v1.Filter_TCP},
				[]string{"send tcp6 " + tcp6}, []string{"send tcp4 " + tcp4}},
			{"peer of an option", v1.SocketError_SETSOCKOPT, nil, &v1.Filter{Ports: []string{port(tcp4)}},
				[]string{"setsockopt tcp4 " + tcp4}, []string{"setsockopt tcp6 " + tcp6}},
		} {
			if mechanism == "cgroup_sock" && !inCgroupHooks(tt.operation) {
				continue
			}
			t.Run(tt.name, func(t *testing.T) {
				spec := fails(mechanism, tt.operation)
				spec.Filter = tt.filter
				spec.GetSocketError().Families = tt.families
				i := inject(t, spec, target)
				for _, call := range tt.hit {
					expect(t, call, inside.do(t, call, 2), env.Results{injected: 2})
				}
				for _, call := range tt.not {
					if got := inside.do(t, call, 2); got[injected] != 0 {
						t.Errorf("%s was hit: %v", call, got)
					}
				}
				expectCounters(t, i, uint64(2*len(tt.hit)), uint64(2*len(tt.hit)))
				i.End()
			})
		}
	})
}

func TestWhatComesAndLeavesObservedAndTold(t *testing.T) {
	network := env.NewLoopback(t)
	tcp4, _, _ := serve(t, network)
	connect := "connect tcp4 " + tcp4
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		old := newCaller(t, target, network)
		spec := fails(mechanism, v1.SocketError_CONNECT)
		spec.Observe = true
		i := inject(t, spec, target)
		expect(t, "observed", old.do(t, connect, 5), env.Results{0: 5})
		expectCounters(t, i, 5, 5)
		i.End()

		spec.Observe = false
		i = inject(t, spec, target)
		young := newCaller(t, env.Child(t, target, "child"), network)
		expect(t, "old", old.do(t, connect, 5), env.Results{injected: 5})
		expect(t, "young, in a cgroup below", young.do(t, connect, 5), env.Results{injected: 5})
		expectCounters(t, i, 10, 10)
		event := env.FirstEvent(t, i)
		if event.GetWhat() != "CONNECT" || event.GetPeer() != tcp4 || event.GetProtocol() != "TCP" || event.GetErrno() != "ENOTNAM" || event.GetPid() != int32(old.PID()) || event.GetCommand() == "" {
			t.Errorf("event %v", event)
		}
		// What nobody renews ends by itself.
		if err := i.Renew(fault.Lease{Deadline: fault.BootTime()}); err != nil {
			t.Fatal(err)
		}
		expect(t, "after the lease", old.do(t, connect, 5), env.Results{0: 5})
		i.End()
	})
}

// A call gets one errno: it is of the fault that gave it, and of no other.
func TestTwoFaultsOfOneOperation(t *testing.T) {
	network := env.NewLoopback(t)
	tcp4, _, _ := serve(t, network)
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		inside := newCaller(t, target, network)
		for operation, call := range map[v1.SocketError_Operation]string{
			v1.SocketError_CONNECT: "connect tcp4 " + tcp4, v1.SocketError_BIND: "bind tcp4 127.0.0.1:0",
			v1.SocketError_GETSOCKOPT: "getsockopt tcp4 " + tcp4, v1.SocketError_SETSOCKOPT: "setsockopt tcp4 " + tcp4,
		} {
			t.Run(operation.String(), func(t *testing.T) {
				const times = 12
				third := fails(mechanism, operation)
				third.GetSocketError().Errno = "EXFULL"
				third.Rate = &v1.Rate{Every: proto.Uint64(3)}
				half := fails(mechanism, operation)
				half.Rate = &v1.Rate{Every: proto.Uint64(2)}
				one, two := inject(t, third, target), inject(t, half, target)
				got := inside.do(t, call, times)
				a, b := one.Count(), two.Count()
				expect(t, "counted were", got, env.Results{
					unix.EXFULL: int(a.Injected), injected: int(b.Injected), 0: int(times - a.Injected - b.Injected),
				})
				// The kernel's order is its own.
				first, second := a, b
				if second.Matched > first.Matched {
					first, second = second, first
				}
				left := times - first.Injected
				if mechanism == "fmod_ret_security" && kernel.Preempts() {
					left = times // who delivers verdicts does not know of others' while they decide
				}
				if first.Matched != times || second.Matched != left || min(first.Injected, second.Injected) == 0 {
					t.Errorf("counters %+v, and behind it %+v, of %d calls", first, second, times)
				}
				one.End()
				two.End()
			})
		}
	})
}

func TestWhatAMechanismCanNotDoIsSaid(t *testing.T) {
	target := env.Cgroup(t)
	for _, tt := range []struct {
		operation v1.SocketError_Operation
		families  []v1.SocketError_Family
		want      string
	}{
		{v1.SocketError_ACCEPT, nil, "mechanism cgroup_sock can't do operation ACCEPT"},
		{v1.SocketError_CONNECT, []v1.SocketError_Family{v1.SocketError_UNIX}, "mechanism cgroup_sock can't do family UNIX"},
	} {
		t.Run(fmt.Sprint(tt.operation, tt.families), func(t *testing.T) {
			prober := env.Prober(t)
			for _, need := range socket.Error().Mechanisms[0].Needs {
				if answer := prober.Probe(t.Context(), need); !answer.OK() {
					kernels.Missing(t, string(need), errors.New(answer.Reason))
				}
			}
			spec := fails("cgroup_sock", tt.operation)
			spec.GetSocketError().Families = tt.families
			_, err := env.Plan(t, socket.Error(), spec, nil, target)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

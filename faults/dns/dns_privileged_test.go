//go:build linux && privileged

package dns_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

// Whatever way a program asks: what the fault is about is answered wrongly, the rest as
// always, and everything comes from the server that was asked.
func TestQuestionsOfEachKind(t *testing.T) {
	network := env.NewLoopback(t)
	serve(t, network.A)
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	inside, outside := newAsker(t, target, network.A), newAsker(t, neighbour, network.A)
	ways := []string{"udp " + server4, "sendto " + server4, "tcp " + server4, "udp " + server6, "sendto " + server6, "tcp " + server6}
	right := func(way string) response {
		return response{"RCodeSuccess", []string{db}, strings.Fields(way)[1]}
	}
	i := inject(t, wrong(v1.DnsFault_NXDOMAIN, "db.example.com"), target)
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			server := strings.Fields(way)[1]
			for question, want := range map[string]response{
				" A db.example.com":    {"RCodeNameError", nil, server},
				" AAAA DB.example.com": {"RCodeNameError", nil, server},
				" A web.example.com":   {"RCodeSuccess", []string{web}, server},
				" A db.example.org":    {"RCodeRefused", nil, server},
			} {
				if got := inside.ask(t, way+question); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %+v, want %+v", question, got, want)
				}
			}
			if got := outside.ask(t, way+" A db.example.com"); !reflect.DeepEqual(got, right(way)) {
				t.Errorf("the neighbour: %+v", got)
			}
		})
	}
	expectCounters(t, i, uint64(2*len(ways)), uint64(2*len(ways)))
	i.End()
	for _, way := range ways {
		if got := inside.ask(t, way+" A db.example.com"); !reflect.DeepEqual(got, right(way)) {
			t.Errorf("afterwards, %s: %+v", way, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	network := env.NewLoopback(t)
	serve(t, network.A)
	target := env.Cgroup(t)
	inside := newAsker(t, target, network.A)
	const way = "udp " + server4
	for _, tt := range []struct {
		name     string
		fault    *v1.DnsFault
		question string
		want     response
		hit      uint64
	}{
		{"SERVFAIL", &v1.DnsFault{Names: []string{"*.example.com"}, Answer: v1.DnsFault_SERVFAIL}, "A db.example.com", response{"RCodeServerFailure", nil, server4}, 1},
		{"REFUSED", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_REFUSED}, "A db.example.com", response{"RCodeRefused", nil, server4}, 1},
		{"TIMEOUT", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_TIMEOUT}, "A db.example.com", response{}, 1},
		{"address", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_ADDRESS, Address: "10.9.9.9"}, "A db.example.com", response{"RCodeSuccess", []string{"10.9.9.9"}, server4}, 1},
		{"address of the other family", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_ADDRESS, Address: "10.9.9.9"}, "AAAA db.example.com", response{"RCodeSuccess", nil, server4}, 1},
		{"IPv6 address", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_ADDRESS, Address: "fd00::9"}, "AAAA db.example.com", response{"RCodeSuccess", []string{"fd00::9"}, server4}, 1},
		{"address of a text", &v1.DnsFault{Names: []string{"*"}, Answer: v1.DnsFault_ADDRESS, Address: "10.9.9.9"}, "TXT db.example.com", response{"RCodeSuccess", nil, server4}, 0},
		{"other type", &v1.DnsFault{Names: []string{"*"}, Types: []string{"AAAA", "TXT"}, Answer: v1.DnsFault_NXDOMAIN}, "A db.example.com", response{"RCodeSuccess", []string{db}, server4}, 0},
		{"type", &v1.DnsFault{Names: []string{"*"}, Types: []string{"AAAA", "TXT"}, Answer: v1.DnsFault_NXDOMAIN}, "TXT db.example.com", response{"RCodeNameError", nil, server4}, 1},
		{"below, and not itself", &v1.DnsFault{Names: []string{"*.db.example.com"}, Answer: v1.DnsFault_NXDOMAIN}, "A db.example.com", response{"RCodeSuccess", []string{db}, server4}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := inject(t, &v1.Fault{Fault: &v1.Fault_DnsFault{DnsFault: tt.fault}}, target)
			if got := inside.ask(t, way+" "+tt.question); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			expectCounters(t, i, tt.hit, tt.hit)
			i.End()
		})
	}
	t.Run("random address", func(t *testing.T) {
		i := inject(t, wrong(v1.DnsFault_RANDOM_ADDRESS, "*"), target)
		seen := map[string]bool{}
		for range 20 {
			for kind, networks := range map[string][]string{"A": {"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}, "AAAA": {"2001:db8::/32"}} {
				got := inside.ask(t, way+" "+kind+" db.example.com")
				if len(got.Addresses) != 1 {
					t.Fatalf("%s: %+v", kind, got)
				}
				address := netip.MustParseAddr(got.Addresses[0])
				if !slices.ContainsFunc(networks, func(n string) bool { return netip.MustParsePrefix(n).Contains(address) }) {
					t.Errorf("%s: %s is an address of somebody", kind, address)
				}
				seen[address.String()] = true
			}
		}
		if len(seen) < 20 {
			t.Errorf("40 questions got %d addresses", len(seen))
		}
		i.End()
	})
}

func TestRateFilterObserveLeaseAndEvents(t *testing.T) {
	network := env.NewLoopback(t)
	serve(t, network.A)
	target := env.Cgroup(t)
	inside := newAsker(t, target, network.A)
	const question = "udp " + server4 + " A db.example.com"
	count := func(question string, times int) (wrong int) {
		t.Helper()
		for range times {
			if inside.ask(t, question).Code == "RCodeNameError" {
				wrong++
			}
		}
		return wrong
	}
	spec := wrong(v1.DnsFault_NXDOMAIN, "db.example.com")
	spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
	i := inject(t, spec, target)
	if got := count(question, 12); got != 4 {
		t.Errorf("%d of 12 were answered wrongly, want 4", got)
	}
	expectCounters(t, i, 12, 4)
	event := env.FirstEvent(t, i)
	if event.GetWhat() != "NXDOMAIN" || event.GetPath() != "A db.example.com" || event.GetProtocol() != "UDP" {
		t.Errorf("event %v", event)
	}
	if err := i.Renew(fault.Lease{Deadline: fault.BootTime()}); err != nil {
		t.Fatal(err)
	}
	if got := count(question, 12); got != 0 {
		t.Errorf("%d were answered wrongly without a lease", got)
	}
	i.End()

	spec.Rate, spec.Observe = nil, true
	i = inject(t, spec, target)
	if got := count(question, 5); got != 0 {
		t.Errorf("%d were answered wrongly though only observed", got)
	}
	expectCounters(t, i, 5, 5)
	i.End()

	// Of one server, and not of the other.
	spec.Observe, spec.Filter = false, &v1.Filter{Peers: []string{"::1"}}
	i = inject(t, spec, target)
	if a, b := count(question, 3), count("udp "+server6+" A db.example.com", 3); a != 0 || b != 3 {
		t.Errorf("%d and %d were answered wrongly, want 0 and 3", a, b)
	}
	i.End()
}

// A process in a network namespace that was not there when the fault began.
func TestNamespaceThatComesLater(t *testing.T) {
	first, second := env.NewLoopback(t), env.NewLoopback(t)
	serve(t, first.A)
	serve(t, second.A)
	target := env.Cgroup(t)
	inside := newAsker(t, target, first.A)
	i := inject(t, wrong(v1.DnsFault_NXDOMAIN, "db.example.com"), target)
	const question = "udp " + server4 + " A db.example.com"
	if got := inside.ask(t, question); got.Code != "RCodeNameError" {
		t.Errorf("in the first: %+v", got)
	}
	later := newAsker(t, env.Child(t, target, "child"), second.A)
	if err := i.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := later.ask(t, question); got.Code != "RCodeNameError" {
		t.Errorf("in the second: %+v", got)
	}
	if got := inside.ask(t, question); got.Code != "RCodeNameError" {
		t.Errorf("in the first, again: %+v", got)
	}
	i.End()
	if got := later.ask(t, question); got.Code != "RCodeSuccess" {
		t.Errorf("afterwards: %+v", got)
	}
}

// getent is the C library: one name is gone, and nothing else. The document stands in
// docs/faults/dnsFault.md.
func TestGetentFindsAllNamesButOne(t *testing.T) {
	network := env.NewLoopback(t)
	serve(t, network.A)
	dir := t.TempDir()
	resolv, nsswitch := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "nsswitch.conf")
	for file, text := range map[string]string{
		resolv: "nameserver 127.0.0.2\noptions timeout:2 attempts:1\n", nsswitch: "hosts: dns\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	getent := func(cgroup fault.Cgroup, name string) int {
		t.Helper()
		return env.StartProgram(t, cgroup, network.A, "unshare", "--mount", "sh", "-c", fmt.Sprintf(
			"mount --bind %s /etc/resolv.conf && mount --bind %s /etc/nsswitch.conf && exec getent ahosts %s", resolv, nsswitch, name)).Status()
	}
	const found, notFound = 0, 2 // getent(1)
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	newAsker(t, target, network.A) // the target's namespace is that of who is in it
	i := inject(t, wrong(v1.DnsFault_NXDOMAIN, "db.example.com"), target)
	for _, tt := range []struct {
		who    string
		cgroup fault.Cgroup
		name   string
		want   int
	}{
		{"the target", target, "db.example.com", notFound},
		{"the target, another name", target, "web.example.com", found},
		{"the neighbour", neighbour, "db.example.com", found},
	} {
		if got := getent(tt.cgroup, tt.name); got != tt.want {
			t.Errorf("%s: getent exits with %d, want %d", tt.who, got, tt.want)
		}
	}
	if c := i.Count(); c.Injected == 0 || c.Injected != c.Matched || c.Missed != 0 {
		t.Errorf("counters %+v", c)
	}
	i.End()
	if got := getent(target, "db.example.com"); got != found {
		t.Errorf("afterwards getent exits with %d", got)
	}
}

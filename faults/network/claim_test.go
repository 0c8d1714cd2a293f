package network

import (
	"encoding/json"
	"strings"
	"testing"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
)

func TestBadLossesAreReportedWithTheirPlace(t *testing.T) {
	for _, test := range []struct {
		name          string
		loss          *v1.NetworkLoss
		path, message string
	}{
		{"nothing", &v1.NetworkLoss{}, "networkLoss.percent", "missing or 0"},
		{"too much", &v1.NetworkLoss{Percent: 130}, "networkLoss.percent", "0 to 100"},
		{"negative", &v1.NetworkLoss{Percent: -1}, "networkLoss.percent", "0 to 100"},
		{"correlation", &v1.NetworkLoss{Percent: 1, Correlation: 101}, "networkLoss.correlation", "0 to 100"},
		{"both models", &v1.NetworkLoss{Percent: 1, GilbertElliott: &v1.GilbertElliott{P: 1, R: 1}}, "networkLoss", "one or the other"},
		{"chain that never turns", &v1.NetworkLoss{GilbertElliott: &v1.GilbertElliott{R: 1}}, "networkLoss.gilbertElliott.p", "nothing would ever be lost"},
		{"chain out of range", &v1.NetworkLoss{GilbertElliott: &v1.GilbertElliott{P: 1, R: 200}}, "networkLoss.gilbertElliott.r", "0 to 100"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problems := Loss().Validate(&v1.Fault{Fault: &v1.Fault_NetworkLoss{NetworkLoss: test.loss}})
			if len(problems) != 1 || problems[0].Path != test.path || !strings.Contains(problems[0].Message, test.message) {
				t.Errorf("problems %v, want one at %s with %q", problems, test.path, test.message)
			}
		})
	}
}

func TestConflictsAreOnlyAboutTheSamePackets(t *testing.T) {
	shop := fault.Cgroup{Path: "/sys/fs/cgroup/shop"}
	cart := fault.Cgroup{Path: "/sys/fs/cgroup/shop/cart"}
	shopping := fault.Cgroup{Path: "/sys/fs/cgroup/shopping"}
	for _, test := range []struct {
		name     string
		a, b     fault.Cgroup
		f, g     *v1.Filter
		conflict bool
	}{
		{"same cgroup", shop, shop, nil, nil, true},
		{"descendant", shop, cart, nil, nil, true},
		{"ancestor", cart, shop, nil, nil, true},
		{"other cgroup with the same beginning", shop, shopping, nil, nil, false},
		{"other ports", shop, shop, &v1.Filter{Ports: []string{"1-10"}}, &v1.Filter{Ports: []string{"11"}}, false},
		{"one port in common", shop, shop, &v1.Filter{Ports: []string{"1-11"}}, &v1.Filter{Ports: []string{"11"}}, true},
		{"ports and everything", shop, shop, &v1.Filter{Ports: []string{"1"}}, nil, true},
		{"ports and all but these", shop, shop, &v1.Filter{Ports: []string{"1"}}, &v1.Filter{ExcludePorts: []string{"1"}}, false},
		{"two that exclude", shop, shop, &v1.Filter{ExcludePorts: []string{"1-40000"}}, &v1.Filter{ExcludePorts: []string{"40001-65535"}}, true},
		{"peer's port and local port", shop, shop, &v1.Filter{Ports: []string{"1"}}, &v1.Filter{LocalPorts: []string{"2"}}, true},
		{"other protocols", shop, shop, &v1.Filter{Protocol: v1.Filter_TCP}, &v1.Filter{Protocol: v1.Filter_UDP}, false},
		{"other directions", shop, shop, &v1.Filter{Direction: v1.Filter_EGRESS}, &v1.Filter{Direction: v1.Filter_INGRESS}, false},
		{"both and one direction", shop, shop, &v1.Filter{Direction: v1.Filter_BOTH}, &v1.Filter{Direction: v1.Filter_INGRESS}, true},
		{"other peers", shop, shop, &v1.Filter{Peers: []string{"10.0.0.0/8"}}, &v1.Filter{Peers: []string{"11.0.0.0/8"}}, false},
		{"a peer in the other's prefix", shop, shop, &v1.Filter{Peers: []string{"10.0.0.0/8"}}, &v1.Filter{Peers: []string{"10.1.1.1"}}, true},
		{"new and established", shop, shop, &v1.Filter{Connections: v1.Filter_NEW}, &v1.Filter{Connections: v1.Filter_ESTABLISHED}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := claimOf(t, test.a, test.f), claimOf(t, test.b, test.g)
			if got := a.Conflict(b) != ""; got != test.conflict {
				t.Errorf("conflict %v, want %v", got, test.conflict)
			}
			if a.Conflict(b) != b.Conflict(a) {
				t.Errorf("not symmetric: %q and %q", a.Conflict(b), b.Conflict(a))
			}
		})
	}
}

// claimOf takes the claim as another process reads it.
func claimOf(t *testing.T, cgroup fault.Cgroup, spec *v1.Filter) Packets {
	t.Helper()
	f, problems := filter.Parse(spec)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	peers, err := filter.NewPeers(t.Context(), &f, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(Packets{Cgroups: []fault.Cgroup{cgroup}, Filter: spec, Peers: peers.List()})
	if err != nil {
		t.Fatal(err)
	}
	var read Packets
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

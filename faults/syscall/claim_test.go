package syscall

import (
	"strings"
	"testing"

	"faultline.dev/faultline/faults/fault"
)

func TestClaims(t *testing.T) {
	shop, cart, other := fault.Cgroup{Path: "/shop", ID: 1, Level: 1}, fault.Cgroup{Path: "/shop", ID: 1, Level: 1}, fault.Cgroup{Path: "/other", ID: 2, Level: 1}
	calls := func(cgroup fault.Cgroup, inTurn bool, names ...string) Calls {
		return Calls{Cgroups: []fault.Cgroup{cgroup}, Names: names, InTurn: inTurn}
	}
	for name, tt := range map[string]struct {
		a, b Calls
		want string
	}{
		"in turn":                         {calls(shop, true, "read"), calls(cart, true, "read"), ""},
		"two probes at one target":        {calls(shop, false, "read"), calls(cart, false, "read"), "read of /shop"},
		"two probes at two targets":       {calls(shop, false, "read"), calls(other, false, "read"), ""},
		"two calls":                       {calls(shop, false, "read"), calls(shop, true, "write"), ""},
		"a probe and a trampoline":        {calls(shop, false, "read", "write"), calls(shop, true, "write"), "write, which the probe"},
		"a probe and one of another":      {calls(shop, false, "read"), calls(other, true, "read"), "read, which the probe"},
		"a trampoline and one of another": {calls(shop, true, "read"), calls(other, false, "read"), "read, which the probe"},
	} {
		got := tt.a.Conflict(tt.b)
		if (got == "") != (tt.want == "") || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: conflict %q, want %q", name, got, tt.want)
		}
	}
}

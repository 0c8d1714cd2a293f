//go:build linux && privileged

package network

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

// Anybody with the right to may put our mark on a packet. The interface's
// program takes it only from the target.
func TestForgedMarkIsNoReason(t *testing.T) {
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	n := env.NewNetwork(t)
	// Shows the fault in which namespace the target lives.
	env.StartProgram(t, target, n.A, "cat")
	p, err := newPlan(t.Context(), "networkLoss", fault.Request{
		Spec:    &v1.Fault{Filter: &v1.Filter{Ports: []string{"1"}}},
		Cgroups: []fault.Cgroup{target},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.egressProgram, p.hook = cgroupskb.ObjectsProgFlLoseEgress, passing[mechanismClsBPF]
	if env.Prober(t).Probe(t.Context(), kernel.TCX).OK() {
		p.hook = passing[mechanismTCX]
	}
	in := newInjection(p)
	loadAlone(t, in)
	t.Cleanup(func() {
		if err := in.Revert(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := in.hook(t.Context(), &env.Recorder{}); err != nil {
		t.Fatal(err)
	}
	const packet = 7
	mark := int(in.own.mark | packet)
	decision := cgroupskb.ObjectsFlDecision{Effects: 1 /* EFFECT_LOSE */, Faults: 1}
	if err := in.wire.decisions.Put(uint32(packet), decision); err != nil {
		t.Fatal(err)
	}
	if err := in.Start(fault.Lease{Deadline: fault.BootTime() + uint64(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		cgroup   fault.Cgroup
		mark     int
		answered bool
	}{
		{"the target with a mark of nobody", target, mark ^ 1<<31, true},
		{"the target with the mark", target, mark, false},
		{"a neighbour with the mark", neighbour, mark, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ping := env.StartProgram(t, test.cgroup, n.A, "ping", "-n", "-c", "1", "-W", "1", "-m", strconv.Itoa(test.mark), env.AddressB)
			// ping(8): 1 when there was no answer.
			want := map[bool]int{true: 0, false: 1}[test.answered]
			if status := ping.Status(); status != want {
				t.Errorf("ping ended with %d, want %d", status, want)
			}
		})
	}
}

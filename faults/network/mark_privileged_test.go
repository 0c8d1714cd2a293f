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

// straight undoes without a journal, and watches nothing.
type straight struct{}

func (straight) Record(undo fault.Undo) (fault.Undone, error) { return undo, nil }

func (straight) Watch(fault.Watch) error { return nil }

func (straight) PinDir() string { return "" }

// Anybody with the right to may put our mark on a packet. The interface's
// program takes it only from the target.
func TestForgedMarkIsNoReason(t *testing.T) {
	const mark = 0x00fa0175
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	n := env.NewNetwork(t)
	// Shows the fault in which namespace the target lives.
	env.StartProgram(t, target, n.A, "cat")
	p, err := newPlan(t.Context(), fault.Request{
		Spec:    &v1.Fault{Filter: &v1.Filter{Ports: []string{"1"}}},
		Cgroups: []fault.Cgroup{target},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.egressProgram, p.hook = cgroupskb.ObjectsProgFlMarkEgress, &clsHook
	if kernel.NewProber(env.CgroupRoot(t), nil).Probe(t.Context(), kernel.TCX).OK() {
		p.hook = &tcxHook
	}
	in := newInjection(p)
	t.Cleanup(func() {
		if err := in.Revert(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := in.load(mark); err != nil {
		t.Fatal(err)
	}
	if err := in.loadHook(mark); err != nil {
		t.Fatal(err)
	}
	if err := in.hook(t.Context(), straight{}); err != nil {
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
		{"the target without the mark", target, mark + 1, true},
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

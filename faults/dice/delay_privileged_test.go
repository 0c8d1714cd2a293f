//go:build linux && privileged

package dice

import (
	"math"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/testdelay"
)

// The kernel draws 20,000 delays; Go draws the same, to the last bit.
func TestKernelAndGoDrawTheSameDelays(t *testing.T) {
	withTable := func(text string) *v1.NetworkLatency {
		spec := latency(100*time.Millisecond, 10*time.Millisecond, 10, 0)
		spec.Table = writeTable(t, text)
		return spec
	}
	full := make([]int16, MaxDelayTable)
	for i := range full {
		full[i] = int16(i*4 + netemLeast)
	}
	for name, test := range map[string]struct {
		seed, first uint64
		spec        *v1.NetworkLatency
	}{
		"constant":           {1, 0, latency(time.Second, 0, 0, 0)},
		"uniform":            {2, 0, latency(100*time.Millisecond, 30*time.Millisecond, 0, v1.Distribution_UNIFORM)},
		"normal":             {3, 0, latency(100*time.Millisecond, 30*time.Millisecond, 25, v1.Distribution_NORMAL)},
		"normal around 0":    {math.MaxUint64, 0, latency(time.Millisecond, time.Millisecond, 0, v1.Distribution_NORMAL)},
		"pareto":             {4, 1 << 40, latency(100*time.Millisecond, 30*time.Millisecond, 75, v1.Distribution_PARETO)},
		"hours":              {5, math.MaxUint64 - draws/2, latency(2*time.Hour, time.Hour, 50, v1.Distribution_NORMAL)},
		"more than the rest": {6, 0, latency(time.Nanosecond, time.Hour, 0, v1.Distribution_UNIFORM)},
		"all alike":          {7, 0, latency(time.Second, time.Second, 100, v1.Distribution_PARETO)},
		"one number":         {8, 0, withTable("-1")},
		"seven numbers":      {9, 0, withTable("-32768 32767 1 -1 0 5 -77")},
		"full table":         {10, 0, withTable(tableText("full", full))},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDelay(t, test.seed, test.spec)
			got := kernelDraws(t, d, test.first)
			var state DelayState
			for i := range got {
				n := test.first + uint64(i)
				if want := uint64(d.Draw(n, &state)); got[i] != want {
					t.Fatalf("draw %d is %d in the kernel and %d here", n, got[i], want)
				}
			}
		})
	}
}

// kernelDraws lets the running kernel draw the delays of the events from first.
func kernelDraws(t *testing.T, d Delay, first uint64) []uint64 {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := testdelay.LoadObjects()
	if err != nil {
		t.Fatal(err)
	}
	config := testdelay.ObjectsFlDelay{
		Delay: d.Delay, Jitter: d.Jitter, Correlation: d.Correlation, Seed: d.Seed,
		Size: d.Table.Size(), Shape: d.Table.Shape(),
	}
	if err := spec.Variables[testdelay.ObjectsVarFlConfig].Set(config); err != nil {
		t.Fatal(err)
	}
	var objects testdelay.ObjectsObjects
	if err := spec.LoadAndAssign(&objects, nil); err != nil {
		t.Fatalf("%+v", err)
	}
	defer objects.Close()
	if err := objects.FlDelays.Put(uint32(0), d.Table.Value()); err != nil {
		t.Fatal(err)
	}
	if err := objects.FlDrawing.Put(uint32(0), testdelay.ObjectsFlDrawing{Ordinal: first}); err != nil {
		t.Fatal(err)
	}
	code, err := objects.FlDraw.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: draws})
	if err != nil || code != 0 {
		t.Fatalf("running the program: %d, %v", code, err)
	}
	list := make([]uint64, draws)
	var cursor ebpf.MapBatchCursor
	if n, err := objects.FlDrawn.BatchLookup(&cursor, make([]uint32, draws), list, nil); n != draws {
		t.Fatalf("read %d of %d draws: %v", n, draws, err)
	}
	return list
}

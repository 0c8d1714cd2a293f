package kernel

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cilium/ebpf/rlimit"
)

// Prober answers what the kernel can do and remembers conclusive answers. It
// may be used by many goroutines; one capability is probed by one at a time.
type Prober struct {
	cgroupRoot string
	log        *slog.Logger
	catalogue  []capabilitySpec
	entries    map[Capability]*entry
	types      typeIDs

	// Before 5.11 BPF memory counts against RLIMIT_MEMLOCK; the limit of the
	// whole process is lifted once, before its first probe.
	memlock sync.Once
}

// entry is the memory of one capability. The channel is a lock that can be
// waited for together with a context.
type entry struct {
	lock   chan struct{}
	done   bool
	answer Answer
}

// NewProber returns a prober. cgroupRoot is the mount point of cgroup v2 as
// found by [Cgroup2Mount], "" when there is none: what needs it is then no.
// Probes make and remove children named faultline-probe-* there. A nil log is
// silent.
//
// The first probe lifts RLIMIT_MEMLOCK of the whole process on kernels before
// 5.11, which need that for BPF; see setrlimit(2).
func NewProber(cgroupRoot string, log *slog.Logger) *Prober {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Prober{cgroupRoot: cgroupRoot, log: log, catalogue: catalogue, entries: map[Capability]*entry{}}
	for _, e := range catalogue {
		p.entries[e.name] = &entry{lock: make(chan struct{}, 1)}
	}
	return p
}

// All returns every capability in the order in which a table shows them.
func (p *Prober) All() []Capability {
	all := make([]Capability, len(p.catalogue))
	for i, e := range p.catalogue {
		all[i] = e.name
	}
	return all
}

// together is how many probes ProbeAll runs at a time. Much of a probe is waiting
// for the kernel to let go of what was attached.
const together = 4

// ProbeAll probes every capability, several at a time.
func (p *Prober) ProbeAll(ctx context.Context) map[Capability]Answer {
	answers := make(map[Capability]Answer, len(p.catalogue))
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, together)
	for _, c := range p.All() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			a := p.Probe(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			answers[c] = a
		})
	}
	wg.Wait()
	return answers
}

// Probe finds out about one capability. A yes or a conclusive no is given again
// without touching the kernel; an unknown is sought anew each time. A context
// that ends makes the answer unknown; a probe that has begun runs to its end,
// which takes milliseconds, a few seconds where a module has to be loaded.
func (p *Prober) Probe(ctx context.Context, c Capability) Answer {
	spec, ok := find(p.catalogue, c)
	if !ok {
		return Answer{Unknown, fmt.Sprintf("there is no capability %q", c), ""}
	}
	e := p.entries[c]
	if err := ctx.Err(); err != nil {
		return classify(err, caller{}, spec.remedy)
	}
	select {
	case e.lock <- struct{}{}:
		defer func() { <-e.lock }()
	case <-ctx.Done():
		return classify(ctx.Err(), caller{}, spec.remedy)
	}
	if e.done {
		return e.answer
	}
	p.memlock.Do(func() {
		if err := rlimit.RemoveMemlock(); err != nil {
			p.log.Warn("lifting the limit of locked memory", "error", Explain(err))
		}
	})
	note, err := spec.probe(p)
	a := classify(err, currentCaller(), spec.remedy)
	if err == nil {
		a.Reason = note
	}
	p.log.Debug("probed the kernel", "capability", c, "available", a.Available, "reason", a.Reason)
	if a.Available != Unknown {
		e.done, e.answer = true, a
	}
	return a
}

package probe

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// Failure is a failed attempt.
type Failure struct {
	Probe string
	Err   error
	// Abort tells that the probe asks for the end of the run.
	Abort bool
	Time  time.Time
}

// Runner attempts the probes of a run at their times. Call Start, then
// FaultsActive at each change, then End, and Stop in any case. Attempts of one
// probe never overlap.
type Runner struct {
	probes []*scheduled
	// onAbort hears of the failures that ask for the end of the run.
	onAbort func(Failure)

	cancel  context.CancelFunc
	quit    chan struct{}
	endOnce sync.Once
	loops   sync.WaitGroup
}

// scheduled is a probe with what came of it.
type scheduled struct {
	*Probe
	// turn is held during an attempt.
	turn sync.Mutex

	mu      sync.Mutex
	result  *v1.ProbeResult
	active  bool
	changed chan struct{} // closed at the next change of active
}

// NewRunner makes a runner. onAbort, which may be nil, is called for every
// failed attempt between Start and End of a probe whose onFailure is ABORT;
// it is called from the probe's goroutine and must not wait for the runner.
// Failures in Start and End are returned there.
func NewRunner(probes []*Probe, onAbort func(Failure)) *Runner {
	if onAbort == nil {
		onAbort = func(Failure) {}
	}
	r := &Runner{onAbort: onAbort, quit: make(chan struct{})}
	for _, p := range probes {
		r.probes = append(r.probes, &scheduled{
			Probe:   p,
			result:  &v1.ProbeResult{Name: p.name},
			changed: make(chan struct{}),
		})
	}
	return r
}

// Start attempts START, EDGE and CONTINUOUS probes once, all at the same time,
// and returns what failed. From then on CONTINUOUS probes are attempted at
// their interval, until End, Stop or the end of ctx. It is called once.
func (r *Runner) Start(ctx context.Context) []Failure {
	ctx, r.cancel = context.WithCancel(ctx)
	failures := r.all(ctx, v1.Probe_START, v1.Probe_EDGE, v1.Probe_CONTINUOUS)
	r.loop(ctx)
	return failures
}

// Resume goes on where the runner of an earlier process ended, with the results
// that it had. It is called instead of Start.
func (r *Runner) Resume(ctx context.Context, earlier []*v1.ProbeResult) {
	ctx, r.cancel = context.WithCancel(ctx)
	for i, s := range r.probes {
		if i < len(earlier) {
			s.mu.Lock()
			s.result = earlier[i]
			s.mu.Unlock()
		}
	}
	r.loop(ctx)
}

// loop begins the attempts that are made at an interval.
func (r *Runner) loop(ctx context.Context) {
	for _, s := range r.probes {
		switch s.when {
		case v1.Probe_CONTINUOUS:
			r.loops.Go(func() { r.continuous(ctx, s) })
		case v1.Probe_DURING:
			r.loops.Go(func() { r.during(ctx, s) })
		}
	}
}

// FaultsActive tells whether a fault is active. While one is, DURING probes are
// attempted, first at once and then at their interval. An attempt that has
// begun is finished and counts also when the fault ends before it: a service
// that hung all the time must not pass for lack of an answer.
func (r *Runner) FaultsActive(active bool) {
	for _, s := range r.probes {
		if s.when == v1.Probe_DURING {
			s.setActive(active)
		}
	}
}

// End waits for the attempts that have begun, attempts CONTINUOUS, EDGE and END
// probes once more, and returns what failed of these last ones. Nothing is
// attempted after it.
func (r *Runner) End(ctx context.Context) []Failure {
	r.finish()
	return r.all(ctx, v1.Probe_END, v1.Probe_EDGE, v1.Probe_CONTINUOUS)
}

// Stop ends everything at once and waits for it; attempts that it interrupts
// don't count. It may be called more than once and after End.
func (r *Runner) Stop() {
	if r.cancel != nil {
		r.cancel()
	}
	r.finish()
}

func (r *Runner) finish() {
	r.endOnce.Do(func() { close(r.quit) })
	r.loops.Wait()
}

// Results returns what has come of each probe so far, in the order of the
// document. A probe passes as long as no attempt has failed.
func (r *Runner) Results() []*v1.ProbeResult {
	out := make([]*v1.ProbeResult, 0, len(r.probes))
	for _, s := range r.probes {
		out = append(out, s.snapshot())
	}
	return out
}

// all attempts the probes of these times at once.
func (r *Runner) all(ctx context.Context, whens ...v1.Probe_When) []Failure {
	failures := make([]*Failure, len(r.probes))
	var wg sync.WaitGroup
	for i, s := range r.probes {
		for _, when := range whens {
			if s.when == when {
				wg.Go(func() { failures[i] = s.once(ctx) })
			}
		}
	}
	wg.Wait()
	var out []Failure
	for _, f := range failures {
		if f != nil {
			out = append(out, *f)
		}
	}
	return out
}

func (r *Runner) continuous(ctx context.Context, s *scheduled) {
	// A ticker keeps one tick that nobody took and drops the others: after
	// an attempt longer than the interval the next one comes at once, and
	// those that were missed are not made up for.
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.quit:
			return
		case <-tick.C:
		}
		if r.ended() { // both were ready
			return
		}
		r.report(s.once(ctx))
	}
}

func (r *Runner) during(ctx context.Context, s *scheduled) {
	for !r.ended() {
		active, changed := s.activity()
		if !active {
			select {
			case <-ctx.Done():
				return
			case <-r.quit:
				return
			case <-changed:
			}
			continue
		}
		next := time.NewTimer(s.interval)
		r.report(s.once(ctx))
		select {
		case <-ctx.Done():
		case <-r.quit:
		case <-changed:
		case <-next.C:
			continue
		}
		next.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (r *Runner) ended() bool {
	select {
	case <-r.quit:
		return true
	default:
		return false
	}
}

func (r *Runner) report(f *Failure) {
	if f != nil && f.Abort {
		r.onAbort(*f)
	}
}

func (s *scheduled) setActive(active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == active {
		return
	}
	s.active = active
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *scheduled) activity() (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active, s.changed
}

// once makes one attempt and notes what came. An attempt that the end of ctx
// interrupted says nothing about the system and does not count.
func (s *scheduled) once(ctx context.Context) *Failure {
	s.turn.Lock()
	defer s.turn.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	err := s.Attempt(ctx)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Attempts++
	if err == nil {
		return nil
	}
	s.result.Failures++
	s.result.Error = err.Error()
	if s.result.FirstFailure == nil {
		s.result.FirstFailure = timestamppb.New(now)
	}
	return &Failure{Probe: s.name, Err: err, Abort: s.abort, Time: now}
}

func (s *scheduled) snapshot() *v1.ProbeResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &v1.ProbeResult{
		Name:         s.name,
		Passed:       s.result.Failures == 0,
		Attempts:     s.result.Attempts,
		Failures:     s.result.Failures,
		Error:        s.result.Error,
		FirstFailure: s.result.FirstFailure,
	}
}

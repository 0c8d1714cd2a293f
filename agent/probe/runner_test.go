package probe

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// script is a probe whose attempts take a time and end as told. In a
// synctest bubble its times are exact.
type script struct {
	start time.Time
	takes time.Duration
	fail  func(attempt int) bool

	mu      sync.Mutex
	began   []time.Duration
	overlap bool
	inside  atomic.Int32
}

func newScript() *script { return &script{start: time.Now()} }

func (s *script) attempt(ctx context.Context) error {
	if s.inside.Add(1) > 1 {
		s.overlap = true
	}
	defer s.inside.Add(-1)
	s.mu.Lock()
	s.began = append(s.began, time.Since(s.start))
	n := len(s.began)
	s.mu.Unlock()
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return &lateError{"script", "an end", ctx.Err()}
		}
	}
	if s.fail != nil && s.fail(n) {
		return errors.New("told to fail")
	}
	return nil
}

func (s *script) probe(when v1.Probe_When) *Probe {
	return &Probe{name: when.String(), when: when, interval: time.Second, timeout: 5 * time.Second, attempt: s.attempt}
}

// pass lets virtual time pass, and then everything settle.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func seconds(s ...float64) []time.Duration {
	var out []time.Duration
	for _, x := range s {
		out = append(out, time.Duration(x*float64(time.Second)))
	}
	return out
}

func wantTimes(t *testing.T, s *script, want ...float64) {
	t.Helper()
	if diff := cmp.Diff(seconds(want...), s.began); diff != "" {
		t.Errorf("attempts began at other times (-want +got):\n%s", diff)
	}
	if s.overlap {
		t.Error("attempts overlapped")
	}
}

func TestScheduleOfARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, end, edge, continuous, during := newScript(), newScript(), newScript(), newScript(), newScript()
		r := NewRunner([]*Probe{
			start.probe(v1.Probe_START), end.probe(v1.Probe_END), edge.probe(v1.Probe_EDGE),
			continuous.probe(v1.Probe_CONTINUOUS), during.probe(v1.Probe_DURING),
		}, nil)
		defer r.Stop()
		if f := r.Start(t.Context()); len(f) != 0 {
			t.Fatalf("failures at the start: %v", f)
		}
		pass(1500 * time.Millisecond)
		r.FaultsActive(true)
		r.FaultsActive(true) // a second fault begins
		pass(2 * time.Second)
		r.FaultsActive(false)
		pass(2 * time.Second)
		r.FaultsActive(true) // the next step
		pass(100 * time.Millisecond)
		r.FaultsActive(false)
		pass(1400 * time.Millisecond)
		if f := r.End(t.Context()); len(f) != 0 {
			t.Fatalf("failures at the end: %v", f)
		}
		pass(10 * time.Second)
		wantTimes(t, start, 0)
		wantTimes(t, end, 7)
		wantTimes(t, edge, 0, 7)
		wantTimes(t, during, 1.5, 2.5, 3.5, 5.5)
		if n := len(continuous.began); n < 8 || continuous.began[0] != 0 || continuous.began[n-1] != 7*time.Second {
			t.Errorf("continuous attempts began at %v", continuous.began)
		}
		for _, p := range r.Results() {
			if !p.Passed || p.Attempts == 0 || p.Failures != 0 {
				t.Errorf("result %v", p)
			}
		}
	})
}

func TestSlowAttemptsDontOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		continuous, during := newScript(), newScript()
		continuous.takes, during.takes = 2500*time.Millisecond, 2500*time.Millisecond
		r := NewRunner([]*Probe{continuous.probe(v1.Probe_CONTINUOUS), during.probe(v1.Probe_DURING)}, nil)
		defer r.Stop()
		r.Start(t.Context()) // takes 2.5 s
		r.FaultsActive(true)
		pass(time.Second)
		r.FaultsActive(false)
		r.FaultsActive(true) // while the first attempt still runs
		pass(5 * time.Second)
		r.FaultsActive(false)
		r.End(t.Context())
		wantTimes(t, during, 2.5, 5, 7.5)
		// 0 at the start, at the interval from 3.5, and once more at the end.
		wantTimes(t, continuous, 0, 3.5, 6, 8.5, 11)
	})
}

func TestFailuresAreReturnedAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []Failure
		var mu sync.Mutex
		aborting, recording := newScript(), newScript()
		aborting.fail = func(n int) bool { return n == 1 || n == 3 }
		recording.fail = func(int) bool { return true }
		a, b := aborting.probe(v1.Probe_CONTINUOUS), recording.probe(v1.Probe_CONTINUOUS)
		a.name, a.abort = "aborting", true
		b.name = "recording"
		r := NewRunner([]*Probe{a, b}, func(f Failure) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, f)
		})
		defer r.Stop()
		began := time.Now()
		failures := r.Start(t.Context())
		if len(failures) != 2 || !failures[0].Abort || failures[1].Abort {
			t.Errorf("failures at the start: %+v", failures)
		}
		pass(2500 * time.Millisecond)
		r.Stop()
		if len(heard) != 1 || heard[0].Probe != "aborting" || heard[0].Time.Sub(began) != 2*time.Second {
			t.Errorf("heard of %+v", heard)
		}
		got := r.Results()
		if got[0].Passed || got[0].Attempts != 3 || got[0].Failures != 2 || got[0].Error != "told to fail" {
			t.Errorf("result %v", got[0])
		}
		if got[1].Failures != 3 || !got[1].FirstFailure.AsTime().Equal(began) {
			t.Errorf("result %v", got[1])
		}
	})
}

func TestAttemptThatOutlivesTheFaultCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := newScript()
		hung.takes = time.Hour
		p := hung.probe(v1.Probe_DURING)
		p.timeout = 5 * time.Second
		r := NewRunner([]*Probe{p}, nil)
		defer r.Stop()
		r.Start(t.Context())
		r.FaultsActive(true)
		pass(3 * time.Second)
		r.FaultsActive(false)
		r.End(t.Context())
		if got := r.Results()[0]; got.Passed || got.Attempts != 1 || got.Failures != 1 {
			t.Errorf("a service that hung all the time passed: %v", got)
		}
		wantTimes(t, hung, 0)
	})
}

func TestStopInterruptsAndDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newScript()
		slow.takes = 4 * time.Second
		r := NewRunner([]*Probe{slow.probe(v1.Probe_DURING)}, nil)
		r.Start(t.Context())
		r.FaultsActive(true)
		pass(time.Second)
		before := time.Now()
		r.Stop()
		r.Stop()
		if time.Since(before) != 0 {
			t.Error("stop waited for the attempt")
		}
		if got := r.Results()[0]; !got.Passed || got.Attempts != 0 {
			t.Errorf("an interrupted attempt counts: %v", got)
		}
	})
}

func TestEndOfContextEndsTheLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		ctx, cancel := context.WithCancel(t.Context())
		r := NewRunner([]*Probe{s.probe(v1.Probe_CONTINUOUS), s.probe(v1.Probe_END)}, nil)
		r.Start(ctx)
		pass(1500 * time.Millisecond)
		cancel()
		pass(5 * time.Second)
		wantTimes(t, s, 0, 1)
		r.Stop()
	})
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	NewRunner(nil, nil).Stop()
}

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
)

const (
	// claimsName is the file in which a run tells others what it acts on.
	claimsName = "claims.json"
	// joinTimeout is how long other processes may hold up the beginning of a
	// run. They need milliseconds, unless one is frozen.
	joinTimeout = 30 * time.Second
)

// published is a claim as it stands in claimsName.
type published struct {
	Fault string          `json:"fault"`
	Kind  string          `json:"kind"`
	Claim json.RawMessage `json:"claim"`
}

// cleanUp takes back what runs have left whose processes died. Those that can
// be taken over are left alone. What could not be taken back stays in their
// journals, where join finds it.
func (e *Engine) cleanUp(ctx context.Context) error {
	runs, err := journal.List(e.StateDir)
	if err != nil {
		return err
	}
	var keep []string
	for _, run := range runs {
		if !run.Alive && resumable(run) {
			keep = append(keep, run.ID)
		}
	}
	report, err := journal.Revert(ctx, e.StateDir, faults.DecodeUndo, keep...)
	for _, r := range report.GetUndone() {
		e.Log.Warn("taken back what a run left whose process had died", "run", r.GetRunId(), "fault", r.GetFault(), "what", r.GetDescription())
	}
	return err
}

// cleanUpFirst is cleanUp for a run that is not planned yet. On a machine where
// nothing is left it touches nothing.
func (e *Engine) cleanUpFirst(ctx context.Context) (err error) {
	runs, err := journal.List(e.StateDir)
	dead := slices.ContainsFunc(runs, func(r journal.Run) bool { return !r.Alive && !resumable(r) })
	if err != nil || !dead {
		return nil // join says what is wrong
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	unlock, err := journal.Lock(ctx, e.StateDir)
	if err != nil {
		return err
	}
	return errors.Join(e.cleanUp(ctx), unlock())
}

// join makes the run one of this machine's: it is compared with the others, gets
// its journal, and publishes what it acts on.
func (r *run) join(ctx context.Context) error {
	return r.exclusively(ctx, func() error {
		claims, err := r.claims()
		if err != nil {
			return err
		}
		if r.journal, err = journal.Create(r.engine.StateDir, r.id, r.result.GetName()); err != nil {
			return err
		}
		return r.journal.WriteFile(claimsName, claims)
	})
}

// claimAgain compares with the others what the run acts on after it was
// planned anew.
func (r *run) claimAgain(ctx context.Context) error {
	return r.exclusively(ctx, func() error {
		claims, err := r.claims()
		if err != nil {
			return err
		}
		return r.journal.WriteFile(claimsName, claims)
	})
}

// exclusively calls fn when nothing of an earlier run blocks and no other run
// acts on the same, under a lock that all processes share.
func (r *run) exclusively(ctx context.Context, fn func() error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	unlock, err := journal.Lock(ctx, r.engine.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := r.engine.cleanUp(ctx); err != nil {
		return err
	}
	runs, err := journal.List(r.engine.StateDir)
	if err != nil {
		return err
	}
	for _, other := range runs {
		if other.ID == r.id {
			continue
		}
		if err := blocking(other); err != nil {
			return err
		}
		if err := r.compareWith(other); err != nil {
			return err
		}
	}
	return fn()
}

// blocking is the error of a run that left something behind for good.
func blocking(run journal.Run) error {
	var reasons []string
	for _, open := range run.Open {
		if open.GetError() != "" || !run.Alive && !resumable(run) {
			reasons = append(reasons, strings.TrimSuffix(open.GetDescription()+": "+open.GetError(), ": "))
		}
	}
	if run.Err != nil && !run.Alive {
		reasons = append(reasons, run.Err.Error())
	}
	if len(reasons) == 0 {
		return nil
	}
	return fmt.Errorf("%w: run %s: %s; see `faultline status`, try `faultline revert`", ErrBlocked, run.ID, strings.Join(reasons, "; "))
}

// compareWith looks for something that another run acts on too.
func (r *run) compareWith(other journal.Run) error {
	b, err := other.ReadFile(claimsName)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it is ending
	}
	if err != nil {
		return err
	}
	var list []published
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("reading what run %s acts on: %w", other.ID, err)
	}
	for _, p := range list {
		theirs, err := faults.DecodeClaim(p.Kind, p.Claim)
		if err != nil {
			return fmt.Errorf("%w: run %s: %w", ErrBusy, other.ID, err)
		}
		for _, a := range r.faults {
			if what := conflict(a.planned.plan.Claims, []fault.Claim{theirs}); what != "" {
				return fmt.Errorf("%w: %q of run %s (%s) acts on %s too; wait for its end, or end it with `faultline stop %s`",
					ErrBusy, p.Fault, other.ID, other.Name, what, other.ID)
			}
		}
	}
	return nil
}

// claims is what the run publishes.
func (r *run) claims() ([]byte, error) {
	list := []published{}
	for _, a := range r.faults {
		for _, c := range a.planned.plan.Claims {
			b, err := json.Marshal(c)
			if err != nil {
				return nil, fmt.Errorf("encoding what %q acts on: %w", a.planned.spec.GetName(), err)
			}
			list = append(list, published{a.planned.spec.GetName(), c.Kind(), b})
		}
	}
	return json.Marshal(list)
}

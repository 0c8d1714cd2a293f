// Package probe asks a system whether it still does what it should: over
// HTTP, by a command, or by a TCP connection.
package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// Defaults of the document.
const (
	DefaultTimeout  = 5 * time.Second
	DefaultInterval = time.Second
)

// ErrInvalid is matched by what New says about a probe that makes no sense.
var ErrInvalid = errors.New("invalid probe")

// Probe is one probe, ready to be attempted. It is safe for concurrent use.
type Probe struct {
	name     string
	when     v1.Probe_When
	interval time.Duration
	timeout  time.Duration
	abort    bool
	attempt  func(context.Context) error
}

// New checks a probe of the document and makes it ready. Missing are: when
// (CONTINUOUS), interval ([DefaultInterval]), timeout ([DefaultTimeout]),
// onFailure (RECORD). Errors match [ErrInvalid].
func New(p *v1.Probe) (*Probe, error) {
	out, err := build(p)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrInvalid, p.GetName(), err)
	}
	return out, nil
}

func build(p *v1.Probe) (*Probe, error) {
	out := &Probe{
		name:     p.GetName(),
		when:     p.GetWhen(),
		interval: DefaultInterval,
		timeout:  DefaultTimeout,
		abort:    p.GetOnFailure() == v1.Probe_ABORT,
	}
	if out.when == v1.Probe_WHEN_UNSPECIFIED {
		out.when = v1.Probe_CONTINUOUS
	}
	if p.GetInterval() != nil {
		out.interval = p.GetInterval().AsDuration()
	}
	if p.GetTimeout() != nil {
		out.timeout = p.GetTimeout().AsDuration()
	}
	if out.interval <= 0 {
		return nil, fmt.Errorf("interval is %v: it must be above 0", out.interval)
	}
	if out.timeout <= 0 {
		return nil, fmt.Errorf("timeout is %v: it must be above 0", out.timeout)
	}
	var err error
	switch x := p.GetProbe().(type) {
	case *v1.Probe_Http:
		out.attempt, err = newHTTP(x.Http)
	case *v1.Probe_Command:
		out.attempt, err = newCommand(x.Command)
	case *v1.Probe_Tcp:
		out.attempt, err = newTCP(x.Tcp)
	default:
		err = errors.New("wanted one of http, command, tcp")
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Name is the probe's name in the document.
func (p *Probe) Name() string { return p.name }

// Attempt asks once. It returns nil when the answer is the expected one, and
// else one line that says what was expected and what came. It takes at most
// the probe's timeout, and for a command a second more for pipes that are
// still held open.
func (p *Probe) Attempt(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	err := p.attempt(limited)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && limited.Err() != nil {
		var late *lateError
		if errors.As(err, &late) {
			return fmt.Errorf("%s: expected %s within %v, got none", late.what, late.expected, p.timeout)
		}
	}
	return errors.New(oneLine(err.Error()))
}

// lateError is an attempt that its context ended: what was expected and did
// not come in time.
type lateError struct {
	what     string
	expected string
	err      error
}

func (e *lateError) Error() string {
	return fmt.Sprintf("%s: expected %s, got: %v", e.what, e.expected, e.err)
}

func (e *lateError) Unwrap() error { return e.err }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

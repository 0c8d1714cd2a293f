package main

import (
	"errors"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/probe"
	"faultline.dev/faultline/agent/target"
	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// The exit codes. They are part of the command line's contract.
const (
	exitPassed = 0
	// exitFailed: a probe failed.
	exitFailed = 1
	// exitUsage: the document or the call is wrong.
	exitUsage = 2
	// exitNotInjected: it could not be done, and nothing was changed.
	exitNotInjected = 3
	// exitNoEffect: a fault hit nothing.
	exitNoEffect = 4
	// exitAborted: ended early by a person or a signal, or broken off by an
	// error after faults had been on; what they did was taken back.
	exitAborted = 5
	// exitRevert: something could not be taken back. It wins over all.
	exitRevert = 6
)

// exitError ends the program with a code. What is to be said about it is the
// error inside; nil when everything is said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage marks an error of the call.
func usage(err error) error { return &exitError{exitUsage, err} }

// silent ends the program with a code and no further word.
func silent(code int) error {
	if code == exitPassed {
		return nil
	}
	return &exitError{code, nil}
}

// exitCode is the one place that says which error ends with which code.
func exitCode(err error) int {
	var explicit *exitError
	var decoding document.Errors
	switch {
	case err == nil:
		return exitPassed
	case errors.Is(err, engine.ErrRevert):
		return exitRevert
	case errors.As(err, &explicit):
		return explicit.code
	case errors.As(err, &decoding),
		errors.Is(err, fault.ErrNotBuilt),
		errors.Is(err, engine.ErrConflict),
		errors.Is(err, probe.ErrInvalid),
		errors.Is(err, target.ErrInvalid):
		return exitUsage
	default:
		return exitNotInjected
	}
}

// resultCode is the code of a run. err is what the engine returned beside the
// result.
func resultCode(result *v1.Result, err error) int {
	if result.GetRollback() == v1.Rollback_FAILED || errors.Is(err, engine.ErrRevert) {
		return exitRevert
	}
	switch result.GetVerdict() {
	case v1.Verdict_PASSED:
		if err != nil {
			return exitAborted
		}
		return exitPassed
	case v1.Verdict_FAILED:
		return exitFailed
	case v1.Verdict_NO_EFFECT:
		return exitNoEffect
	case v1.Verdict_ABORTED:
		return exitAborted
	default:
		if touched(result) {
			return exitAborted
		}
		if err == nil {
			return exitNotInjected
		}
		return exitCode(err)
	}
}

package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAvailabilityIsItsWordInJSON(t *testing.T) {
	for a, want := range map[Availability]string{
		No: `{"available":"no"}`, Yes: `{"available":"yes"}`, Unknown: `{"available":"unknown"}`,
	} {
		b, err := json.Marshal(Answer{Available: a})
		if err != nil || string(b) != want {
			t.Errorf("got %s, %v, want %s", b, err, want)
		}
		var back Answer
		if err := json.Unmarshal(b, &back); err != nil || back.Available != a {
			t.Errorf("reading %s: got %v, %v", b, back, err)
		}
	}
	var a Answer
	if err := json.Unmarshal([]byte(`{"available":"maybe"}`), &a); err == nil {
		t.Errorf("read %v from a word that does not exist", a)
	}
}

// proberFor returns a prober with one capability that is probed by fn.
func proberFor(t *testing.T, fn func(*Prober) (string, error)) (*Prober, Capability) {
	t.Helper()
	const c = Capability("test")
	p := NewProber("", nil)
	p.catalogue = []capabilitySpec{{c, "a test", "the remedy", fn}}
	p.entries = map[Capability]*entry{c: {lock: make(chan struct{}, 1)}}
	return p, c
}

func TestOnlyConclusiveAnswersAreRemembered(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want Answer
		runs int
	}{
		"yes":     {nil, Answer{Yes, "a note", ""}, 1},
		"no":      {noBecause("because", ""), Answer{No, "because", "the remedy"}, 1},
		"unknown": {unknownBecause("who knows", "wait"), Answer{Unknown, "who knows", "wait"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			runs := 0
			p, c := proberFor(t, func(*Prober) (string, error) { runs++; return "a note", tt.err })
			for range 3 {
				if a := p.Probe(context.Background(), c); a != tt.want {
					t.Errorf("got %+v, want %+v", a, tt.want)
				}
			}
			if runs != tt.runs {
				t.Errorf("probed %d times, want %d", runs, tt.runs)
			}
		})
	}
}

func TestCancelledProbeIsUnknownAndTriedAgain(t *testing.T) {
	p, c := proberFor(t, func(*Prober) (string, error) { return "", nil })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if a := p.Probe(ctx, c); a.Available != Unknown {
		t.Errorf("got %+v from a context that has ended", a)
	}
	if a := p.Probe(context.Background(), c); a.Available != Yes {
		t.Errorf("got %+v afterwards", a)
	}
}

func TestWaitingForAnotherProbeEndsWithTheContext(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	p, c := proberFor(t, func(*Prober) (string, error) { close(begun); <-end; return "", nil })
	first := make(chan Answer)
	go func() { first <- p.Probe(context.Background(), c) }()
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan Answer)
	go func() { second <- p.Probe(ctx, c) }()
	cancel()
	if a := <-second; a.Available != Unknown {
		t.Errorf("the waiting one got %+v", a)
	}
	close(end)
	if a := <-first; a.Available != Yes {
		t.Errorf("the first one got %+v", a)
	}
}

func TestUnknownCapability(t *testing.T) {
	if a := NewProber("", nil).Probe(context.Background(), "flux"); a.Available != Unknown || a.Reason == "" {
		t.Errorf("got %+v", a)
	}
}

func TestWithoutCgroup2WhatNeedsItIsNo(t *testing.T) {
	p := NewProber("", nil)
	for _, c := range []Capability{CgroupV2, CgroupSKB, CgroupConnect, LSMCgroup, IOController, CgroupFreeze, CgroupKill} {
		if a := p.Probe(context.Background(), c); a.Available != No || a.Remedy == "" {
			t.Errorf("%s: got %+v", c, a)
		}
	}
}

func TestLockdownAndModules(t *testing.T) {
	dir := t.TempDir()
	if got := lsmList(dir) + lockdownMode(dir); got != "" {
		t.Errorf("got %q from an empty directory", got)
	}
	for file, text := range map[string]string{
		"lsm": "lockdown,capability,yama,bpf", "lockdown": "none [integrity] confidentiality\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := lsmList(dir), "lockdown,capability,yama,bpf"; got != want {
		t.Errorf("modules: got %q, want %q", got, want)
	}
	if got, want := lockdownMode(dir), "integrity"; got != want {
		t.Errorf("lockdown: got %q, want %q", got, want)
	}
}

func TestHasSymbol(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kallsyms")
	const list = "0000000000000000 t ifb_xmit_not\n0000000000000000 t veth_xmit\t[veth]\n"
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"ifb_xmit": false, "veth_xmit": true} {
		if got, err := hasSymbol(file, name); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := hasSymbol(file+"x", "any"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a listing that is not there", err)
	}
}

func TestDescribe(t *testing.T) {
	d := Describe()
	if d.Release == "" || d.Machine == "" || d.Lockdown == "" || d.JIT == "" {
		t.Errorf("got %+v with empty fields", d)
	}
}

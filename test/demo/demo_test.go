//go:build linux

package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"faultline.dev/faultline/api/document"
	"faultline.dev/faultline/faults"
)

func TestExperimentIsValid(t *testing.T) {
	doc, err := document.Decode("experiment.yaml", []byte(experiment))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range faults.Validate(doc.Experiment) {
		t.Error(problem)
	}
	if n := strings.Count(experiment, experimentCgroup); n != 1 {
		t.Errorf("%s is %d times in the document, want once", experimentCgroup, n)
	}
	for _, want := range []string{serviceAddress + ":" + servicePort, `ports: ["` + servicePort + `"]`} {
		if !strings.Contains(experiment, want) {
			t.Errorf("%s is not in the document", want)
		}
	}
}

func TestUnicodeLocale(t *testing.T) {
	for _, test := range []struct {
		environment map[string]string
		want        bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "en_GB.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.utf8"}, true},
		{map[string]string{"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
	} {
		if got := unicodeLocale(func(name string) string { return test.environment[name] }); got != test.want {
			t.Errorf("%v: got %v", test.environment, got)
		}
	}
}

func TestPipeGetsLastingLinesOnly(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, glyphs: ascii}
	s.show("a live line")
	s.say("30 %% of %d", 7)
	s.show("")
	s.say("%s", s.good("done"))
	if diff := cmp.Diff("30 % of 7\ndone\n", out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLiveLineStaysBelow(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, live: true, width: func() int { return 10 }}
	s.show("a live line that is long")
	s.say("above")
	s.show("")
	want := "\r\x1b[Ka live li" + "\r\x1b[Kabove\na live li" + "\r\x1b[K"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWrapped(t *testing.T) {
	for _, test := range []struct {
		line string
		want []string
	}{
		{"", []string{"  "}},
		{"one two", []string{"  one two"}},
		{"one two three", []string{"  one two", "    three"}},
		{"averyverylongword b", []string{"  averyverylongword", "    b"}},
	} {
		if diff := cmp.Diff(test.want, wrapped("  ", test.line, 10)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.line, diff)
		}
	}
}

func TestCut(t *testing.T) {
	if got := cut("12345678", 8); got != "12345678" {
		t.Errorf("got %q", got)
	}
	if got := cut("123456789", 8); got != "12345..." {
		t.Errorf("got %q", got)
	}
}

func TestOutputComesByLines(t *testing.T) {
	var out bytes.Buffer
	w := &indented{screen: &screen{out: &out}}
	for _, part := range []string{"fau", "ltline: a\nfault", "line: b\n"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	}
	if diff := cmp.Diff("     faultline: a\n     faultline: b\n", out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSocketsAreCountedUntilTheyClose dials what answers and what does not:
// neither leaves a descriptor behind.
func TestSocketsAreCountedUntilTheyClose(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	var s sockets
	conn, err := s.dial(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.open) != 1 {
		t.Errorf("%d sockets are counted, want 1", len(s.open))
	}
	for range 2 {
		// The second time it is closed already, and counted once only.
		_ = conn.Close()
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := s.dial(context.Background(), "tcp", address); err == nil {
		_ = conn.Close()
		t.Error("a closed port was reached")
	}
	if len(s.open) != 0 {
		t.Errorf("%d sockets are left", len(s.open))
	}
}

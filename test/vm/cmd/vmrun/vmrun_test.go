package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func noEnv(string) (string, bool) { return "", false }

func TestParseTakesTheCommandAsItIs(t *testing.T) {
	o, err := parse([]string{"--kernel", "debian-6.1", "--timeout", "90s", "--disk", "512M", "--env", "A=b c", "--", "prog", "--kernel", "x", "--"}, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"prog", "--kernel", "x", "--"}, o.command); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if o.kernel != "debian-6.1" || o.timeout != 90*time.Second || o.disk != 512<<20 || !slices.Equal(o.env, []string{"A=b c"}) {
		t.Errorf("got %+v", o)
	}
}

func TestParseRefuses(t *testing.T) {
	command := []string{"--", "true"}
	for _, tc := range []struct {
		args []string
		text string
	}{
		{command, "--kernel is missing"},
		{[]string{"--kernel", "debian-7"}, "command is missing"},
		{append([]string{"--kernel", "debian-7", "--cpus", "0"}, command...), "--cpus 0"},
		{append([]string{"--kernel", "debian-7", "--timeout", "-1s"}, command...), "--timeout"},
		{append([]string{"--kernel", "debian-7", "--timeout", "90"}, command...), "timeout"},
		{append([]string{"--kernel", "debian-7", "--memory", "2"}, command...), `"2" is no size`},
		{append([]string{"--kernel", "debian-7", "--disk", "0G"}, command...), "--disk"},
		{append([]string{"--kernel", "debian-7", "--env", "=x"}, command...), "NAME"},
		{append([]string{"--kernel", "debian-7", "--disk", "1G", "--nbd", "/run/s"}, command...), "give one of them"},
		{append([]string{"--colour"}, command...), "colour"},
		{append([]string{"--fetch"}, command...), "no command"},
	} {
		if _, err := parse(tc.args, noEnv); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%q: got %v, want %q", tc.args, err, tc.text)
		}
	}
}

func TestParsePassesOnNamedVariables(t *testing.T) {
	getenv := func(name string) (string, bool) { return "value", name == "SET" }
	o, err := parse([]string{"--kernel", "debian-7", "--env", "SET", "--env", "UNSET", "--", "true"}, getenv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"SET=value"}, o.env); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

func TestEnvironmentIsFaultlinesOwnAndLittleElse(t *testing.T) {
	env := environment("debian-7", []string{"EXTRA=1"}, []string{
		"PATH=/home/me/bin", "SECRET=x", "FAULTLINE_LONG=1", "FAULTLINE_VM_TREE=/t", "FAULTLINE_CACHE=/c",
		"FAULTLINE_TEST_KERNEL=other", "FAULTLINE_STATE_DIR=/elsewhere",
	})
	// The last one of a name counts.
	got := map[string]string{}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		got[name] = value
	}
	for name, want := range map[string]string{
		"FAULTLINE_TEST_KERNEL": "debian-7", "FAULTLINE_STATE_DIR": stateDir, "FAULTLINE_LONG": "1", "EXTRA": "1", "HOME": "/root",
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"SECRET", "FAULTLINE_VM_TREE", "FAULTLINE_CACHE"} {
		if value, there := got[name]; there {
			t.Errorf("%s=%q is passed on", name, value)
		}
	}
	if strings.Contains(got["PATH"], "/home/me") {
		t.Errorf("PATH=%s is the caller's", got["PATH"])
	}
}

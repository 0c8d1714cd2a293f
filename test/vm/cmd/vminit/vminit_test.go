package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// loopback is a port whose other end is the test: frames go to a buffer, and
// nothing is asked.
type loopback struct{ bytes.Buffer }

func (*loopback) Read([]byte) (int, error) { return 0, io.EOF }

// relayed runs a command as a guest does and returns its frames, with those of
// one kind joined.
func relayed(t *testing.T, command ...string) map[wire.Kind]string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// relay changes the environment for good.
	environment := os.Environ()
	t.Cleanup(func() {
		os.Clearenv()
		for _, entry := range environment {
			name, value, _ := strings.Cut(entry, "=")
			if err := os.Setenv(name, value); err != nil {
				t.Error(err)
			}
		}
	})
	var port loopback
	config := wire.Config{Command: command, Dir: dir, Env: []string{"PATH=/usr/bin:/bin", "GREETING=hello"}}
	err = relay(&port, config, &syscall.SysProcAttr{Setsid: true}, func(pid int) int {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				return exitStatus(status)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	frames := map[wire.Kind]string{}
	for {
		kind, payload, err := wire.Receive(&port.Buffer)
		if errors.Is(err, io.EOF) {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ended := frames[wire.Exit]; ended {
			t.Errorf("frame %q after the exit status", kind)
		}
		frames[kind] += string(payload)
	}
}

func TestRelaySendsOutputThenStatus(t *testing.T) {
	got := relayed(t, "sh", "-c", "echo $GREETING; echo oops >&2; exit 7")
	want := map[wire.Kind]string{wire.Started: release(), wire.Stdout: "hello\n", wire.Stderr: "oops\n", wire.Exit: "\x07"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestRelayGivesAShellsStatus(t *testing.T) {
	for _, tc := range []struct {
		command []string
		status  byte
		text    string
	}{
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"no-such-command"}, 127, "no-such-command: executable file not found"},
		{[]string{"/no/such/command"}, 127, "no such file"},
		{[]string{"/etc/passwd"}, 126, "permission denied"},
	} {
		got := relayed(t, tc.command...)
		if got[wire.Exit] != string([]byte{tc.status}) || !strings.Contains(got[wire.Stderr], tc.text) {
			t.Errorf("%q: status %q and %q, want %d and %q", tc.command, got[wire.Exit], got[wire.Stderr], tc.status, tc.text)
		}
	}
}

func TestProcessesNamesWhatRuns(t *testing.T) {
	child := exec.Command("sh", "-c", "echo up; read -r line", "4711")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	// Start returns before the kernel has put the arguments in their place.
	if _, err := io.ReadFull(stdout, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	if text := string(processes("/proc")); !strings.Contains(text, "threads: sh -c echo up; read -r line 4711\n") {
		t.Errorf("no such process in\n%s", text)
	}
}

func TestDumpIsOnlyGivenWhenAsked(t *testing.T) {
	var out bytes.Buffer
	answerDumps(strings.NewReader("x"+string(rune(wire.AskDump))), wire.NewWriter(&out))
	kind, payload, err := wire.Receive(&out)
	if err != nil || kind != wire.Dump || len(payload) == 0 {
		t.Errorf("got kind %q, %d bytes, %v", kind, len(payload), err)
	}
	if out.Len() > 0 {
		t.Errorf("%d bytes more", out.Len())
	}
}

func TestParseDeviceReadsWhatDepmodWrites(t *testing.T) {
	for _, tc := range []struct {
		line, name string
		mode       uint32
		number     uint64
	}{
		{"tun net/tun c10:200", "net/tun", unix.S_IFCHR, unix.Mkdev(10, 200)},
		{"loop loop0 b7:0", "loop0", unix.S_IFBLK, unix.Mkdev(7, 0)},
		{"# Device nodes to trigger on-demand module loading.", "", 0, 0},
		{"tun net/tun", "", 0, 0},
		{"tun net/tun x10:200", "", 0, 0},
		{"", "", 0, 0},
	} {
		name, mode, number, ok := parseDevice(tc.line)
		if name != tc.name || mode != tc.mode || uint64(number) != tc.number || ok != (tc.name != "") {
			t.Errorf("%q: got %q, mode %o, number %#x, %t", tc.line, name, mode, number, ok)
		}
	}
}

package machine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/test/vm/internal/wire"
)

// TestMain makes the test binary a QEMU for the tests: with guestVariable set it
// says on the port, descriptor 3, what a guest would say.
func TestMain(m *testing.M) {
	if behaviour := os.Getenv(guestVariable); behaviour != "" {
		guest(behaviour)
		return
	}
	os.Exit(m.Run())
}

const guestVariable = "FAULTLINE_TEST_GUEST"

func guest(behaviour string) {
	port := os.NewFile(fdPort, "port")
	console := os.NewFile(fdConsole, "console")
	out := wire.NewWriter(port)
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	started := func() { must(out.Send(wire.Started, []byte("6.1.0-test"))) }
	switch behaviour {
	case "exits":
		started()
		must(out.Send(wire.Stdout, []byte("out")))
		must(out.Send(wire.Stderr, []byte("err")))
		must(out.Send(wire.Exit, []byte{7}))
	case "panics":
		started()
		_, err := io.WriteString(console, "[    1.0] Kernel panic - not syncing: sysrq triggered crash\r\n")
		must(err)
		return
	case "ends":
		_, err := io.WriteString(os.Stderr, "qemu: no such device\n")
		must(err)
		return
	case "can't":
		must(out.Send(wire.Fatal, []byte("mounting 9p: no such device")))
	case "garbles":
		_, err := port.Write([]byte("HTTP/1.1 200 OK"))
		must(err)
	case "hangs":
		started()
		question := make([]byte, 1)
		if _, err := port.Read(question); err == nil && question[0] == wire.AskDump {
			must(out.Send(wire.Dump, []byte("42 sleep")))
		}
	case "is stuck":
	}
	select {}
}

// runGuest runs a guest that behaves in one way.
func runGuest(ctx context.Context, t *testing.T, behaviour string, limit, boot time.Duration) (status int, stdout, stderr string, started bool, err error) {
	t.Helper()
	t.Setenv(guestVariable, behaviour)
	t.Setenv("TMPDIR", t.TempDir())
	var out, errOut bytes.Buffer
	status, err = Run(ctx, Spec{
		QEMU: os.Args[0], Accel: "tcg", Image: "none", Initramfs: []byte("initramfs"),
		CPUs: 1, Memory: "1G", DiskBytes: 1 << 30, Tree: "/", Timeout: limit, Boot: boot,
		Stdout: &out, Stderr: &errOut, Console: io.Discard, Tail: NewTail(1 << 10),
		Started: func(release string) { started = release == "6.1.0-test" },
	})
	left, globErr := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	if globErr != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, globErr)
	}
	return status, out.String(), errOut.String(), started, err
}

const long = time.Minute

func TestRunGivesOutputAndStatus(t *testing.T) {
	status, stdout, stderr, started, err := runGuest(context.Background(), t, "exits", long, 0)
	if err != nil || status != 7 || stdout != "out" || stderr != "err" || !started {
		t.Errorf("got status %d, output %q and %q, started %t, %v", status, stdout, stderr, started, err)
	}
}

func TestRunSaysWhyThereIsNoStatus(t *testing.T) {
	for _, tc := range []struct {
		behaviour string
		limit     time.Duration
		boot      time.Duration
		want      error
		text      string
	}{
		{"panics", long, 0, ErrPanic, ""},
		{"ends", long, 0, ErrEnd, "no such device"},
		{"can't", long, 0, ErrGuest, "mounting 9p"},
		{"garbles", long, 0, wire.ErrFrame, ""},
		{"hangs", 100 * time.Millisecond, 0, ErrHang, "42 sleep"},
		{"hangs", time.Second, 500 * time.Millisecond, ErrHang, "42 sleep"}, // it has booted
		{"is stuck", long, 100 * time.Millisecond, ErrBoot, "100ms"},
	} {
		t.Run(tc.behaviour, func(t *testing.T) {
			_, _, _, _, err := runGuest(context.Background(), t, tc.behaviour, tc.limit, tc.boot)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if _, _, _, _, err := runGuest(ctx, t, "is stuck", long, 0); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestArgumentsExportTheRootReadOnly(t *testing.T) {
	args := strings.Join(Spec{Tree: "/a,b", KernelDir: "/k", Accel: "kvm", CPUs: 1}.arguments(), "\n")
	for _, want := range []string{
		"local,id=root,path=/,security_model=none,multidevs=remap,readonly=on\n",
		"local,id=tree,path=/a,,b,security_model=none,multidevs=remap\n",
		"local,id=kernel,path=/k,security_model=none,multidevs=remap,readonly=on\n",
		"-cpu\nhost\n",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in\n%s", want, args)
		}
	}
	if args := strings.Join(Spec{Accel: "tcg,thread=multi"}.arguments(), "\n"); strings.Contains(args, "id=kernel") || !strings.Contains(args, "-cpu\nmax,-") {
		t.Errorf("a kernel folder or a real CPU in\n%s", args)
	}
}

func TestNBDDiskGetsTheFlushes(t *testing.T) {
	s := Spec{Accel: "tcg", NBD: "/run/a,b"}
	args := strings.Join(s.arguments(), " ")
	if !strings.Contains(args, "driver=nbd,node-name=vdb,server.type=unix,server.path=/run/a,,b -device virtio-blk-pci,drive=vdb") {
		t.Errorf("no NBD disk in %s", args)
	}
	if strings.Contains(args, "no-flush") || strings.Contains(args, path(fdDisk)) {
		t.Errorf("a disk that loses flushes in %s", args)
	}
}

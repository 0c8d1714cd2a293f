package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	isolate()
	// What runs in parallel here waits most of its time: for leases, and for ends.
	if err := flag.Set("test.parallel", "6"); err != nil { // go test -parallel comes after it
		panic(err)
	}
	testscript.Main(m, programs)
}

// programs are what this test binary is under another name.
var programs = map[string]func(){
	"faultline": main,
	"chatter":   chatter,
	"echo":      echo,
	"coded":     coded,
}

// chatter sends a numbered datagram to its first argument, each time that its
// second one says, until it is killed, and says when the first has left.
func chatter() {
	connection, err := net.Dial("udp", os.Args[1])
	every, parsing := time.ParseDuration(os.Args[2])
	if err := errors.Join(err, parsing); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	number := 0
	for range time.Tick(every) {
		// Without a listener the answer to the one before is an error here.
		_, _ = fmt.Fprintln(connection, "chatter", number)
		if number == 0 {
			fmt.Println(`"ready"`)
		}
		number++
	}
}

// echo answers each datagram to the address of its argument, until it is killed.
func echo() {
	connection, err := net.ListenPacket("udp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(`"ready"`)
	for buffer := make([]byte, 2048); ; {
		n, from, err := connection.ReadFrom(buffer)
		if err == nil {
			_, err = connection.WriteTo(buffer[:n], from)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// coded runs a program, prints its exit code, and takes it along when it is
// killed itself: a script that fails kills what it has started, but no
// grandchildren.
func coded() {
	// The signal comes when the thread ends that has started the program.
	runtime.LockOSThread()
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("code", cmd.ProcessState.ExitCode())
}

// TestScripts are the cases that need no privileges.
func TestScripts(t *testing.T) {
	root := publicDir(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		WorkdirRoot:         root,
		RequireExplicitExec: true,
		// FAULTLINE_UPDATE=1 go test ./cmd/faultline writes the expected texts
		// again; look at the difference.
		UpdateScripts: os.Getenv("FAULTLINE_UPDATE") != "",
		Cmds:          commands,
		Setup: func(e *testscript.Env) error {
			e.Setenv("NOBODY_FAULTLINE", filepath.Join(root, "bin", "faultline"))
			e.Setenv("FAULTLINE_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			return nil
		},
	})
}

// commands are those of the scripts beside testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":  exits,
	"nobody": nobody,
}

// exits CODE PROGRAM ARGUMENTS... runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENTS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code is %d, wanted %d", got, want)
	}
}

// nobody CODE ARGUMENTS... runs faultline as a user without privileges.
func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: nobody CODE ARGUMENTS...")
	}
	program := []string{args[0]}
	if os.Geteuid() == 0 {
		program = append(program, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
	}
	program = append(program, ts.Getenv("NOBODY_FAULTLINE"))
	exits(ts, neg, append(program, args[1:]...))
}

// publicDir is a directory that every user may read, with this test binary in
// it as bin/faultline.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "faultline-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(bin, "faultline"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

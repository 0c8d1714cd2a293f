//go:build privileged

package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

const systemdProgram = "/lib/systemd/systemd"

// units are all that the test's systemd knows. Every one ends with it.
var units = map[string]string{
	"main.target":      "[Unit]\nDefaultDependencies=no\nWants=shop.service shop-done.service\n",
	"shop.service":     "[Unit]\nDefaultDependencies=no\n[Service]\nSlice=shop.slice\nExecStart=/usr/bin/tail -f /dev/null\n",
	"shop.slice":       "[Unit]\nDefaultDependencies=no\n",
	"shop-off.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/true\n",
	// Is active for systemd, and has no processes.
	"shop-done.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
}

// startSystemd runs a system manager of its own, as PID 1 of new namespaces
// and below a cgroup of the test, and returns a resolver that asks it.
func startSystemd(t *testing.T) (*Resolver, fault.Cgroup) {
	t.Helper()
	if _, err := os.Stat(systemdProgram); err != nil {
		t.Fatalf("this test needs the package systemd: %v", err)
	}
	dir := t.TempDir()
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "shop-masked.service")); err != nil {
		t.Fatal(err)
	}
	// /sys/fs/cgroup must be version 2 for it; it touches only what is below
	// the cgroup in which it starts.
	script := filepath.Join(dir, "start")
	text := fmt.Sprintf(`set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
SYSTEMD_UNIT_PATH=%s container=test exec %s --system --unit=main.target --log-target=console --log-level=warning
`, dir, systemdProgram)
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := env.Cgroup(t)
	cg, err := os.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Close()
	var log strings.Builder
	cmd := exec.Command("sh", script)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cg.Fd()),
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The end of PID 1 is the end of its namespace.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("systemd said:\n%s", log.String())
		}
	})
	socket := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root/run/systemd/private")
	dial := func(ctx context.Context) (*systemd.Conn, error) {
		return systemd.NewConnection(func() (*dbus.Conn, error) {
			through, err := startRelay(cmd.Process.Pid, socket)
			if err != nil {
				return nil, err
			}
			conn, err := dbus.NewConn(through, dbus.WithContext(ctx))
			if err != nil {
				return nil, errors.Join(err, through.Close())
			}
			if err := conn.Auth([]dbus.Auth{dbus.AuthExternal("0")}); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return conn, nil
		})
	}
	ready := func() error {
		conn, err := dial(t.Context())
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, unit := range []string{"shop.service", "shop-done.service"} {
			p, err := conn.GetUnitPropertyContext(t.Context(), unit, "ActiveState")
			if err != nil {
				return err
			}
			if p.Value.Value() != "active" {
				return fmt.Errorf("%s is %v", unit, p.Value)
			}
		}
		return nil
	}
	if err := env.Within(5*time.Minute, ready); err != nil {
		t.Fatalf("starting systemd: %v\n%s", err, log.String())
	}
	r := newResolver(t)
	r.SystemdDir, r.DialSystemd = dir, dial
	return r, c
}

// relayVariable makes the test binary a relay to the socket that it names.
const relayVariable = "FAULTLINE_TARGET_TEST_RELAY"

// relay is a connection through a process in systemd's PID namespace: systemd
// hangs up on peers whose PID it can't see.
type relay struct {
	cmd *exec.Cmd
	io.Reader
	io.WriteCloser
}

func startRelay(pid int, socket string) (*relay, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &relay{cmd: exec.Command("nsenter", "-t", fmt.Sprint(pid), "-p", self)}
	r.cmd.Env = append(os.Environ(), relayVariable+"="+socket)
	if r.WriteCloser, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if r.Reader, err = r.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return r, r.cmd.Start()
}

func (r *relay) Close() error {
	err := r.WriteCloser.Close()
	// It may be that systemd has hung up before.
	_ = r.cmd.Wait()
	return err
}

// runRelay copies between the socket and standard input and output.
func runRelay(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.Close()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func unit(name string) *v1.Target {
	return &v1.Target{Target: &v1.Target_SystemdUnit{SystemdUnit: name}}
}

func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	r, c := startSystemd(t)
	service := at(t, c, "shop.slice/shop.service")
	wantCgroups(t, r, unit("shop.service"), service)
	wantCgroups(t, r, unit("shop"), service)
	wantCgroups(t, r, unit("shop.slice"), at(t, c, "shop.slice"))

	wantRefused(t, r, unit("nobody"), ErrNotFound, "knows no unit nobody.service")
	wantRefused(t, r, unit("shop-off"), ErrNotFound, "shop-off.service does not run (inactive, dead)")
	wantRefused(t, r, unit("shop-masked"), ErrNotFound, "masked")
	wantRefused(t, r, unit("shop-done"), ErrNotFound, "shop-done.service", "exited")
	wantRefused(t, r, unit("main.target"), ErrInvalid, "type that has no processes")
	wantCgroups(t, r, unit("-.slice"), c) // where this systemd has its root
}

// at is the cgroup at a path below another one.
func at(t *testing.T, c fault.Cgroup, rel string) fault.Cgroup {
	t.Helper()
	path := filepath.Join(c.Path, rel)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fault.Cgroup{Path: path, ID: st.Ino, Level: c.Level + strings.Count(rel, "/") + 1}
}

func TestNoSystemd(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	r.SystemdDir = filepath.Join(t.TempDir(), "none")
	wantRefused(t, r, unit("shop"), ErrNoSystemd, "systemd does not run on this machine", "name a cgroup or a pid")
}

//go:build linux

package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"faultline.dev/faultline/faults/kernel"
)

// roleVariable tells this program to be one of the processes on the stage.
const roleVariable = "FAULTLINE_DEMO_ROLE"

// rateVariable tells a client how many requests it sends per second.
const rateVariable = "FAULTLINE_DEMO_RATE"

// The cgroups on the stage, and the processes in them.
const (
	roleService   = "service"
	roleClient    = "client"
	roleBystander = "bystander"
)

// stage is what the demo plays on: cgroups and network namespaces of its own.
type stage struct {
	// mount is the cgroup v2 mount point, root the demo's cgroup below it.
	mount, root string
	// service holds the service; client both clients and faultline.
	service, client *namespace
	processes       map[string]*exec.Cmd
}

// newStage makes the cgroups and namespaces. What it made is closed when it
// returns an error.
func newStage() (s *stage, err error) {
	s = &stage{processes: map[string]*exec.Cmd{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.mount, err = kernel.Cgroup2Mount(); err != nil {
		return s, fmt.Errorf("looking for cgroup v2: %w", err)
	}
	var random [3]byte
	if _, err := rand.Read(random[:]); err != nil {
		return s, err
	}
	root := filepath.Join(s.mount, "faultline-demo-"+hex.EncodeToString(random[:]))
	if err := os.Mkdir(root, 0o755); err != nil {
		return s, fmt.Errorf("making a cgroup: %w", err)
	}
	s.root = root
	for _, role := range []string{roleService, roleClient, roleBystander} {
		if err := os.Mkdir(s.cgroup(role), 0o755); err != nil {
			return s, fmt.Errorf("making a cgroup: %w", err)
		}
	}
	if s.service, err = newNamespace(); err != nil {
		return s, err
	}
	if s.client, err = newNamespace(); err != nil {
		return s, err
	}
	return s, connect(s.client, s.service)
}

// cgroup is the directory of a role's cgroup.
func (s *stage) cgroup(role string) string { return filepath.Join(s.root, role) }

// name is a role's cgroup as experiments name it: below the mount point.
func (s *stage) name(role string) string {
	return strings.TrimPrefix(s.cgroup(role), s.mount)
}

// start runs this program as a role, in the role's cgroup and a namespace, and
// returns what it writes to stdout.
func (s *stage) start(role string, ns *namespace, stderr io.Writer, environment ...string) (*bufio.Scanner, error) {
	dir, err := os.Open(s.cgroup(role))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), roleVariable+"="+role), environment...)
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A group of its own: Ctrl-C is for the demo, which cleans up in order.
		Setpgid:   true,
		Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.do(func() error { return startIn(cmd, dir) }); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	s.processes[role] = cmd
	return bufio.NewScanner(out), nil
}

// startIn starts cmd inside the cgroup: none of its sockets is older than that.
func startIn(cmd *exec.Cmd, cgroup *os.File) error {
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	return cmd.Start()
}

// end ends the process of a role.
func (s *stage) end(role string) error {
	cmd := s.processes[role]
	delete(s.processes, role)
	err := cmd.Process.Kill()
	// It was killed: how it ended says nothing.
	_ = cmd.Wait()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// close ends the processes and takes everything down. It may be called again.
func (s *stage) close() error {
	var errs []error
	for role := range s.processes {
		errs = append(errs, s.end(role))
	}
	for _, ns := range []**namespace{&s.client, &s.service} {
		if *ns != nil {
			errs = append(errs, (*ns).close())
			*ns = nil
		}
	}
	if s.root != "" {
		// A cgroup stays busy for a moment after its last process has ended.
		if err := within(5*time.Second, func() error { return removeCgroups(s.root) }); err != nil {
			errs = append(errs, fmt.Errorf("removing the cgroups: %w", err))
		}
		s.root = ""
	}
	return errors.Join(errs...)
}

func removeCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			err = errors.Join(err, removeCgroups(filepath.Join(path, entry.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(path))
}

// retransmitted reads how many TCP segments were sent again in the network
// namespace of a process: RetransSegs of /proc/PID/net/snmp (proc_pid_net(5)).
func retransmitted(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	if err != nil {
		return 0, err
	}
	return parseRetransmitted(string(b))
}

// parseRetransmitted finds Tcp: RetransSegs: a line of names comes before the
// line of their values.
func parseRetransmitted(snmp string) (uint64, error) {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "RetransSegs" && i < len(fields) {
				return strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return 0, errors.New("no RetransSegs in the list of TCP counters")
}

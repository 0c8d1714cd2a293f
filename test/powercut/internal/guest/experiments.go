package guest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// cgroups is where each worker has a cgroup, as the targets name it.
const cgroups = "/powercut"

const cgroupRoot = "/sys/fs/cgroup"

// trafficArgument makes this program what runs in the targets.
const trafficArgument = "traffic"

func cgroupOf(worker int) string { return fmt.Sprintf("%s/worker-%d", cgroups, worker) }

// interfaceName is where the packets leave. One for all workers: their faults stand
// on each other's qdisc.
const interfaceName = "pc0"

// The interface's own address, and that of nobody behind it.
var (
	ownAddress  = net.IPv4(10, 99, 0, 1).To4()
	peerAddress = net.IPv4(10, 99, 0, 2).To4()
)

// surroundings makes an interface and, for each worker, a cgroup with a process that
// sends packets there.
func (g *guest) surroundings() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := makeInterface(); err != nil {
		return fmt.Errorf("making interface %s: %w", interfaceName, err)
	}
	parent := filepath.Join(cgroupRoot, cgroups)
	if err := os.Mkdir(parent, 0o755); err != nil {
		return err
	}
	for worker := range workers {
		path := filepath.Join(cgroupRoot, cgroupOf(worker))
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		cmd := exec.Command(self, trafficArgument, peerAddress.String()+":9")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		if err := errors.Join(cmd.Start(), dir.Close()); err != nil {
			return fmt.Errorf("starting what sends packets: %w", err)
		}
	}
	return nil
}

// makeInterface makes a pair of interfaces. What is sent to the peer leaves through
// the first, and nobody takes it from the second.
func makeInterface() error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = interfaceName
	pair := netlink.NewVeth(attributes)
	pair.PeerName = attributes.Name + "p"
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	near, err := netlink.LinkByName(attributes.Name)
	if err != nil {
		return err
	}
	far, err := netlink.LinkByName(pair.PeerName)
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.AddrAdd(near, &netlink.Addr{IPNet: &net.IPNet{IP: ownAddress, Mask: net.CIDRMask(24, 32)}}),
		netlink.LinkSetUp(near),
		netlink.LinkSetUp(far),
		netlink.NeighSet(&netlink.Neigh{
			LinkIndex: near.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
			IP: peerAddress, HardwareAddr: far.Attrs().HardwareAddr,
		}),
	)
}

// Traffic sends a small datagram to the address of args 50 times a second, for ever.
func Traffic(args []string) error {
	if len(args) != 1 {
		return errors.New("want one address")
	}
	connection, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	for range time.Tick(20 * time.Millisecond) {
		if _, err := connection.Write([]byte("x")); err != nil {
			return err
		}
	}
	return nil
}

// document is an experiment whose fault is undone from the journal.
const document = `apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata: {name: %[1]s}
spec:
  seed: %[2]d
  steps:
  - name: %[1]s
    faults:
    - name: %[1]s
      target: {cgroup: %[3]s}
      %[4]s
      duration: %[5]v
`

// experiments are the faults that are undone from the journal.
var experiments = []struct{ name, fault string }{
	{"loss", "networkLoss: {percent: 50}\n      mechanism: cls_bpf\n      filter: {direction: EGRESS}"},
}

// runExperiments runs experiments on the worker's cgroup, over and over.
func (g *guest) runExperiments(worker int, random *rand.Rand, middle func()) error {
	done := make(chan struct{})
	defer close(done)
	go g.awaitOpen(worker, middle, done)
	for {
		if err := g.runOnce(worker, random); err != nil {
			return fmt.Errorf("running an experiment: %w", err)
		}
	}
}

func experimentName(name string, worker int) string { return fmt.Sprintf("%s-%d", name, worker) }

func (g *guest) runOnce(worker int, random *rand.Rand) error {
	chosen := experiments[random.IntN(len(experiments))]
	duration := 200*time.Millisecond + time.Duration(random.IntN(1000))*time.Millisecond
	name := experimentName(chosen.name, worker)
	text := fmt.Sprintf(document, name, random.Uint32(), cgroupOf(worker), chosen.fault, duration)
	path := filepath.Join("/tmp", name+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	result := &v1.Result{}
	if err := g.run(result, "run", path); err != nil {
		return err
	}
	if result.GetVerdict() != v1.Verdict_PASSED || result.GetRollback() != v1.Rollback_VERIFIED {
		return fmt.Errorf("%s ended as %v, rollback %v: %v", name, result.GetVerdict(), result.GetRollback(), result)
	}
	return nil
}

// awaitOpen calls middle when a run of the worker has a record open.
func (g *guest) awaitOpen(worker int, middle func(), done <-chan struct{}) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		// A run that can't be listed just now is listed the next time.
		runs, _ := journal.List(g.runs)
		for _, run := range runs {
			if run.Alive && len(run.Open) > 0 && strings.HasSuffix(run.Name, fmt.Sprintf("-%d", worker)) {
				middle()
				return
			}
		}
		select {
		case <-look.C:
		case <-done:
			return
		}
	}
}

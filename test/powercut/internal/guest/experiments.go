package guest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
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
// sends packets there. All have the names that they had before the cut, and mostly
// the kernel's numbers too; but they are others, whose owner has set what the faults
// would have set: nothing of that may be undone.
func (g *guest) surroundings() (err error) {
	if g.experiments, err = built(experiments); err != nil {
		return err
	}
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
	if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0); err != nil {
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
		for _, e := range experiments {
			if err := e.set(worker, e.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// set writes the experiment's file in a worker's cgroup.
func (e experiment) set(worker int, value string) error {
	if e.file == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(cgroupRoot, cgroupOf(worker), e.file), []byte(value), 0)
}

// get reads it.
func (e experiment) get(worker int) (string, error) {
	text, err := os.ReadFile(filepath.Join(cgroupRoot, cgroupOf(worker), e.file))
	return strings.TrimSpace(string(text)), err
}

// release looks that what the owner has set is as it was set, and lets the workers
// have it.
func (g *guest) release() error {
	var errs []error
	for worker := range workers {
		for _, e := range experiments {
			if e.file == "" {
				continue
			}
			got, err := e.get(worker)
			if err == nil && got != e.value {
				err = fmt.Errorf("%s of %s was set to %q after the cut, and is %q after the revert", e.file, cgroupOf(worker), e.value, got)
			}
			errs = append(errs, err, e.set(worker, e.before))
		}
	}
	link, err := netlink.LinkByName(interfaceName)
	if err != nil {
		return err
	}
	if err := netlink.QdiscDel(clsact(link)); err != nil {
		errs = append(errs, fmt.Errorf("removing the clsact that %s got after the cut: %w", interfaceName, err))
	}
	return errors.Join(errs...)
}

func clsact(link netlink.Link) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
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
		netlink.QdiscAdd(clsact(near)),
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

// experiment is a fault that is undone from the journal.
type experiment struct {
	kind string
	text string // as it stands in a document
	// file of the cgroup and what the fault writes there, and what it holds before;
	// empty for a fault that writes none.
	file, value, before string
}

var experiments = []experiment{
	{kind: "networkLoss", text: "networkLoss: {percent: 100}\n      mechanism: cls_bpf\n      filter: {direction: EGRESS}"},
	{kind: "networkLatency", text: "networkLatency: {delay: 20ms}\n      filter: {direction: BOTH}"},
	{"cpuPressure", `cpuPressure: {limit: "50%"}`, "cpu.max", "50000 100000", "max 100000"},
	{"memoryPressure", "memoryPressure: {limit: 512MiB}", "memory.high", "536870912", "max"},
	{"pidsPressure", `pidsPressure: {limit: "100"}`, "pids.max", "100", "max"},
	{"processPause", "processPause: {}", "cgroup.freeze", "1", "0"},
}

// built leaves out what this version can't inject.
func built(all []experiment) ([]experiment, error) {
	var some []experiment
	for _, e := range all {
		kind, err := faults.Lookup(e.kind)
		if err != nil {
			return nil, err
		}
		if kind.Built() {
			some = append(some, e)
		}
	}
	return some, nil
}

// runExperiments runs experiments on the worker's cgroup, over and over.
func (g *guest) runExperiments(worker int, random *rand.Rand, middle func()) error {
	done := make(chan struct{})
	defer close(done)
	go g.awaitOpen(worker, middle, done)
	for {
		if err := g.runOnce(worker, random, false); err != nil {
			return fmt.Errorf("running an experiment: %w", err)
		}
	}
}

// runOnce runs one experiment of some faults, or with lossOnly of that one, whose
// effect is certain.
func (g *guest) runOnce(worker int, random *rand.Rand, lossOnly bool) error {
	// Time for some packets, however slow the guest is.
	chosen, longer := g.experiments[:1], 1000
	if !lossOnly {
		longer = 0
		chosen = slices.Clone(g.experiments)
		random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		chosen = chosen[:1+random.IntN(len(chosen))]
	}
	name := fmt.Sprintf("worker-%d", worker)
	var text strings.Builder
	fmt.Fprintf(&text, `apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata: {name: %s}
spec:
  seed: %d
  steps:
  - name: power cut
    faults:
`, name, random.Uint32())
	for _, e := range chosen {
		fmt.Fprintf(&text, "    - name: %s\n      target: {cgroup: %s}\n      %s\n      duration: %dms\n", e.kind, cgroupOf(worker), e.text, longer+200+random.IntN(1000))
	}
	path := filepath.Join("/tmp", name+".yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return err
	}
	result := &v1.Result{}
	err := g.run(result, "run", path)
	var exit *exec.ExitError
	// A limit need not bite, and a process that stands still sends nothing.
	if !lossOnly && errors.As(err, &exit) && exit.ExitCode() == exitNoEffect {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%w\nof\n%s", err, text.String())
	}
	if result.GetRollback() != v1.Rollback_VERIFIED || lossOnly && result.GetVerdict() != v1.Verdict_PASSED {
		return fmt.Errorf("%s ended as %v, rollback %v: %v\nof\n%s", name, result.GetVerdict(), result.GetRollback(), result, text.String())
	}
	return nil
}

// exitNoEffect is run's exit status when a fault hit nothing.
const exitNoEffect = 4

// awaitOpen calls middle when a run of the worker has a record open.
func (g *guest) awaitOpen(worker int, middle func(), done <-chan struct{}) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		// A run that can't be listed just now is listed the next time.
		runs, _ := journal.List(g.runs)
		for _, run := range runs {
			if run.Alive && len(run.Open) > 0 && run.Name == fmt.Sprintf("worker-%d", worker) {
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

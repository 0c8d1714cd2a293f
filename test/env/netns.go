//go:build linux

package env

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name, held by a descriptor.
type Namespace struct {
	t    testing.TB
	file *os.File
}

// Network is two namespaces with a veth pair between them.
type Network struct {
	A, B *Namespace
}

// The addresses and the interface of a Network.
const (
	AddressA  = "10.99.0.1"
	AddressB  = "10.99.0.2"
	Address6A = "fd00:99::1"
	Address6B = "fd00:99::2"
	// Veth is the interface's name on both sides.
	Veth = "eth0"
)

// NewNetwork makes the namespaces; they end with the test.
func NewNetwork(t testing.TB) Network {
	t.Helper()
	n := Network{A: newNamespace(t), B: newNamespace(t)}
	n.Link()
	return n
}

// Link makes the veth pair, and gives it its addresses. It is for a test that has
// removed the pair of a Network.
func (n Network) Link() {
	n.A.t.Helper()
	n.connect(Veth, Veth)
	n.A.Do(func() error { return configure(Veth, AddressA, Address6A) })
	n.B.Do(func() error { return configure(Veth, AddressB, Address6B) })
	// A veth has carrier as soon as both ends are up, but tells a little later.
	for _, ns := range []*Namespace{n.A, n.B} {
		ns.Do(func() error { return Within(10*time.Second, running(Veth)) })
	}
	n.introduce(Veth, Veth, []string{AddressA, Address6A}, []string{AddressB, Address6B})
}

// connect makes a veth pair with these names in A and B.
func (n Network) connect(a, b string) {
	n.A.t.Helper()
	n.A.Do(func() error {
		pair := netlink.NewVeth(netlink.NewLinkAttrs())
		pair.Name, pair.PeerName = a, b
		pair.PeerNamespace = netlink.NsFd(int(n.B.file.Fd()))
		return netlink.LinkAdd(pair)
	})
}

func running(name string) func() error {
	return func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState != netlink.OperUp {
			return errors.New("interface is not up")
		}
		return nil
	}
}

func newNamespace(t testing.TB) *Namespace {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- made{nil, err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		result <- made{file, err}
	}()
	m := <-result
	if m.err != nil {
		t.Fatalf("making a network namespace: %v", m.err)
	}
	t.Cleanup(func() { _ = m.file.Close() })
	return &Namespace{t: t, file: m.file}
}

// configure gives an interface its addresses, and sets it and lo up.
func configure(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if err := addAddress(link, address); err != nil {
			return fmt.Errorf("adding %s: %w", address, err)
		}
	}
	return errors.Join(up("lo"), up(name))
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddress(link netlink.Link, text string) error {
	ip := net.ParseIP(text)
	mask := net.CIDRMask(64, 128)
	if ip.To4() != nil {
		ip, mask = ip.To4(), net.CIDRMask(24, 32)
	}
	return netlink.AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: ip, Mask: mask},
		// No duplicate address detection: nobody waits for it.
		Flags: unix.IFA_F_NODAD,
	})
}

// Inode identifies the namespace (namespaces(7)).
func (n *Namespace) Inode() uint64 {
	n.t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &stat); err != nil {
		n.t.Fatal(err)
	}
	return stat.Ino
}

// Do runs fn on a thread inside the namespace; its error fails the test.
func (n *Namespace) Do(fn func() error) {
	n.t.Helper()
	result := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- fn()
	}()
	if err := <-result; err != nil {
		n.t.Fatal(err)
	}
}

// Run runs a program to its end inside the namespace and returns its output.
func (n *Namespace) Run(name string, args ...string) string {
	n.t.Helper()
	var output []byte
	n.Do(func() (err error) {
		output, err = exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %v: %w\n%s", name, args, err, output)
		}
		return err
	})
	return string(output)
}

// ethtool is struct ifreq with a struct ethtool_value (linux/ethtool.h).
type ethtool struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [16]byte
}

type ethtoolValue struct{ command, data uint32 }

// NoChecksumOffload lets the kernel make the checksums of what leaves by the
// interface of a Network, and cut up large segments. With it receivers on the
// same machine don't look at them.
func (n *Namespace) NoChecksumOffload() {
	n.t.Helper()
	n.Do(func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(socket) }()
		request := ethtool{value: &ethtoolValue{command: 0x17 /* ETHTOOL_STXCSUM */, data: 0}}
		copy(request.name[:], Veth)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("switching checksums of %s off: %w", Veth, errno)
		}
		return nil
	})
}

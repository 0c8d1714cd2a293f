//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the two ends, and their interfaces' name. Nothing else is in
// those namespaces, so they can't clash with the machine's.
const (
	clientAddress  = "10.99.0.1"
	serviceAddress = "10.99.0.2"
	vethName       = "eth0"
)

// namespace is a network namespace without a name: it ends with the last
// process in it.
type namespace struct {
	file *os.File
	work chan func()
}

// newNamespace makes a namespace and a thread that stays in it. The thread
// lives on for the sake of the processes that it starts: the kernel sends their
// parent-death signal when the thread ends (prctl(2), PR_SET_PDEATHSIG).
func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.file, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
		if err != nil {
			return
		}
		for fn := range n.work {
			fn()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return n, nil
}

// do runs fn on the thread inside the namespace.
func (n *namespace) do(fn func() error) error {
	result := make(chan error)
	n.work <- func() { result <- fn() }
	return <-result
}

// close lets go of the namespace.
func (n *namespace) close() error {
	close(n.work)
	return n.file.Close()
}

// connect puts a cable between two namespaces. Both ends are made inside them:
// the machine's own namespace never sees an interface come or go.
func connect(client, service *namespace) error {
	err := client.do(func() error {
		pair := netlink.NewVeth(netlink.NewLinkAttrs())
		pair.Name, pair.PeerName = vethName, vethName
		pair.PeerNamespace = netlink.NsFd(int(service.file.Fd()))
		return netlink.LinkAdd(pair)
	})
	if err != nil {
		return fmt.Errorf("making a veth pair: %w", err)
	}
	if err := client.do(func() error { return configure(clientAddress) }); err != nil {
		return fmt.Errorf("configuring the client's interface: %w", err)
	}
	if err := service.do(func() error { return configure(serviceAddress) }); err != nil {
		return fmt.Errorf("configuring the service's interface: %w", err)
	}
	return nil
}

func configure(address string) error {
	for _, name := range []string{"lo", vethName} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == vethName {
			ip := &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(24, 32)}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// within tries fn again and again until it succeeds, and returns its last error
// when the time is over.
func within(limit time.Duration, fn func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

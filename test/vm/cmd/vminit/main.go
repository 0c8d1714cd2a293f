// Command vminit is the first process of a guest of the test bench. It lies in
// the initramfs, mounts the machine's file systems, runs one command and reports
// its output and status; see package wire for the other end.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/vm/internal/wire"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == serviceArgument {
		if err := runService(); err != nil {
			fmt.Fprintln(os.Stderr, "vminit:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vminit: this is the first process of a test guest, not a command")
		os.Exit(2)
	}
	port, err := connect()
	if err == nil {
		if err = run(port); err != nil {
			err = wire.NewWriter(port).Send(wire.Fatal, []byte(err.Error()))
		}
	}
	if err != nil {
		// Without the port there is only the console, whose tail the host shows.
		fmt.Fprintln(os.Stderr, "vminit:", err)
	}
	// The host ends the guest when it has read the last frame; this is for a
	// guest without a port.
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// connect loads the modules and opens the port to the host.
func connect() (*os.File, error) {
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			return nil, err
		}
	}
	config, err := readConfig(wire.ConfigPath)
	if err != nil {
		return nil, err
	}
	for _, module := range config.Modules {
		if err := loadModule(wire.ModuleDir + "/" + module); err != nil {
			return nil, fmt.Errorf("loading %s: %w", module, err)
		}
	}
	return openPort(20 * time.Second)
}

func readConfig(path string) (config wire.Config, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return config, err
	}
	return config, json.Unmarshal(text, &config)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// openPort waits for the virtio-serial port: the driver learns its name from the
// device some time after it was loaded.
func openPort(patience time.Duration) (*os.File, error) {
	const class = "/sys/class/virtio-ports"
	deadline := time.Now().Add(patience)
	for {
		entries, _ := os.ReadDir(class)
		for _, entry := range entries {
			name, err := os.ReadFile(class + "/" + entry.Name() + "/name")
			if err == nil && strings.TrimSpace(string(name)) == wire.PortName {
				return os.OpenFile("/dev/"+entry.Name(), os.O_RDWR, 0)
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("opening port %s: not there after %v", wire.PortName, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run mounts everything and runs the command, or makes systemd the first process
// with the command as a service of it.
func run(port *os.File) error {
	config, err := readConfig(wire.ConfigPath)
	if err != nil {
		return err
	}
	if err := switchRoot(config); err != nil {
		return err
	}
	if err := mountAll(config); err != nil {
		return err
	}
	// An emulated CPU falls behind: packets that pass a veth faster than they
	// are taken would be lost for want of room, and tests count each.
	if err := os.WriteFile("/proc/sys/net/core/netdev_max_backlog", []byte("100000"), 0); err != nil {
		return err
	}
	if config.Systemd {
		return startSystemd(config)
	}
	runner, err := makeCgroups()
	if err != nil {
		return err
	}
	defer runner.Close()
	return runCommand(port, config, runner)
}

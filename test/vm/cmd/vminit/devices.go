package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// makeDevices makes the device nodes whose drivers are loaded when a node is
// opened, such as /dev/fuse and /dev/net/tun, from the list that depmod(8) made.
// On a machine with udev, "kmod static-nodes" does the same.
func makeDevices(modules, dev string) error {
	list, err := os.Open(filepath.Join(modules, release(), "modules.devname"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without modules
	}
	if err != nil {
		return err
	}
	defer list.Close()
	scanner := bufio.NewScanner(list)
	for scanner.Scan() {
		name, mode, number, ok := parseDevice(scanner.Text())
		if !ok {
			continue
		}
		node := filepath.Join(dev, name)
		if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(node, mode|0o600, number); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making device %s: %w", node, err)
		}
	}
	return scanner.Err()
}

// parseDevice reads a line of modules.devname: "tun net/tun c10:200".
func parseDevice(line string) (name string, mode uint32, number int, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 3 || strings.HasPrefix(line, "#") {
		return "", 0, 0, false
	}
	var kind rune
	var major, minor uint32
	if _, err := fmt.Sscanf(fields[2], "%c%d:%d", &kind, &major, &minor); err != nil {
		return "", 0, 0, false
	}
	switch kind {
	case 'c':
		mode = unix.S_IFCHR
	case 'b':
		mode = unix.S_IFBLK
	default:
		return "", 0, 0, false
	}
	return fields[1], mode, int(unix.Mkdev(major, minor)), true
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"faultline.dev/faultline/test/vm/internal/cpio"
	"faultline.dev/faultline/test/vm/internal/modules"
	"faultline.dev/faultline/test/vm/internal/store"
	"faultline.dev/faultline/test/vm/internal/wire"
)

// bootModules are what a guest needs before it can load modules from the
// machine's file system. Everything else the kernel asks modprobe for.
var bootModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// initramfs makes the archive with the guest's first process, its configuration
// and the modules of a stock kernel.
func initramfs(init string, config wire.Config, image store.Image) ([]byte, error) {
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	program, err := os.ReadFile(init)
	if err != nil {
		return nil, err
	}
	w.File("init", 0o755, program)
	w.Char("dev/console", 0o600, 5, 1)
	if image.Dir != "" {
		dir := filepath.Join(image.Dir, "modules", image.Version)
		tree, err := modules.Read(os.DirFS(dir))
		if err != nil {
			return nil, err
		}
		files, err := tree.Order(bootModules...)
		if err != nil {
			return nil, err
		}
		for i, file := range files {
			content, err := readModule(filepath.Join(dir, file))
			if err != nil {
				return nil, err
			}
			name := fmt.Sprintf("%02d-%s", i, strings.TrimSuffix(filepath.Base(file), ".xz"))
			config.Modules = append(config.Modules, name)
			w.File(filepath.Join(wire.ModuleDir, name), 0o644, content)
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	w.File(wire.ConfigPath, 0o644, text)
	return archive.Bytes(), w.Close()
}

// readModule reads a module, unpacked: not every kernel unpacks them itself.
func readModule(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	content, err := exec.Command("xz", "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", path, err)
	}
	return content, nil
}

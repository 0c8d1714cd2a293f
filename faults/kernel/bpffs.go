package kernel

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// bpffs is where systemd mounts the BPF file system.
const bpffs = "/sys/fs/bpf"

// probeBPFFS pins a map under a name of its own.
func probeBPFFS(*Prober) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(bpffs, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
		return noBecause("no BPF file system is mounted at "+bpffs, "")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "fl_probe", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return atStage(stageLoad, err)
	}
	defer m.Close()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	path := filepath.Join(bpffs, probePrefix+hex.EncodeToString(b[:]))
	if err := m.Pin(path); err != nil {
		return atStage(stageSetup, fmt.Errorf("pinning a map: %w", err))
	}
	var found uint32
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		err = errors.Join(pinned.Lookup(uint32(0), &found), pinned.Close())
	}
	if err := errors.Join(err, os.Remove(path)); err != nil {
		return atStage(stageSetup, fmt.Errorf("opening a pinned map: %w", err))
	}
	return nil
}

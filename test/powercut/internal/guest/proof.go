package guest

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/powercut/internal/event"
)

// The proof is written to the bare disk: one block that is flushed, and then one
// that the kernel has handed over to the disk, but without a flush.
const (
	proofBlock  = 4096
	flushedAt   = 0
	unflushedAt = 1 << 20
)

func (g *guest) writeProof() error {
	disk, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	block, err := proofContent()
	if err != nil {
		return err
	}
	if _, err := disk.WriteAt(block, flushedAt); err != nil {
		return err
	}
	if err := disk.Sync(); err != nil {
		return err
	}
	if _, err := disk.WriteAt(block, unflushedAt); err != nil {
		return err
	}
	g.tell(event.Event{Kind: event.Loaded})
	// The disk stays open: its last close would flush it.
	return unix.Pause()
}

// proofContent is aligned as O_DIRECT wants it (open(2)).
func proofContent() ([]byte, error) {
	block, err := unix.Mmap(-1, 0, proofBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("making a block: %w", err)
	}
	copy(block, bytes.Repeat([]byte("proof..."), proofBlock/8))
	return block, nil
}

func (g *guest) readProof() error {
	disk, err := os.Open(device)
	if err != nil {
		return err
	}
	defer disk.Close()
	want, err := proofContent()
	if err != nil {
		return err
	}
	var there [2]bool
	for i, at := range []int64{flushedAt, unflushedAt} {
		got := make([]byte, proofBlock)
		if _, err := disk.ReadAt(got, at); err != nil {
			return err
		}
		there[i] = bytes.Equal(got, want)
	}
	g.tell(event.Event{Kind: event.Proved, Proof: &event.Proof{Flushed: there[0], Unflushed: there[1]}})
	return nil
}

package sleeper

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

//go:generate holder/build

//go:embed holder/holder_amd64.bin
var holderAMD64 []byte

//go:embed holder/holder_arm64.bin
var holderARM64 []byte

// holderName is what the kernel shows of it, beside those of the mount and the daemon.
const holderName = "faultline-holder"

// elf makes a program of code that begins with its entry (elf(5)).
func elf(machine uint16, code []byte) []byte {
	const (
		address            = 0x400000
		headerSize, oneRow = 64, 56
		loaded, stack      = 1, 0x6474e551
		execute, write     = 1, 2
		read               = 4
	)
	var file bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&file, binary.LittleEndian, v) // to memory
		}
	}
	const begin = headerSize + 2*oneRow
	size := uint64(begin + len(code))
	put([16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, uint16(2), machine, uint32(1))
	put(uint64(address+begin), uint64(headerSize), uint64(0), uint32(0))
	put(uint16(headerSize), uint16(oneRow), uint16(2), uint16(0), uint16(0), uint16(0))
	put(uint32(loaded), uint32(read|execute), uint64(0), uint64(address), uint64(address), size, size, uint64(0x10000))
	put(uint32(stack), uint32(read|write), [5]uint64{}, uint64(16))
	file.Write(code)
	return file.Bytes()
}

// holderFile holds the program of the running architecture; it has no name.
func holderFile() (*os.File, error) {
	// elf.h: EM_X86_64, EM_AARCH64.
	programs := map[string]struct {
		machine uint16
		code    []byte
	}{"amd64": {62, holderAMD64}, "arm64": {183, holderARM64}}
	p, ok := programs[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("there is no holder for %s", runtime.GOARCH)
	}
	fd, err := unix.MemfdCreate(holderName, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.3 all are executable.
		fd, err = unix.MemfdCreate(holderName, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), holderName)
	if _, err := file.Write(elf(p.machine, p.code)); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the program: %w", err), file.Close())
	}
	return file, nil
}

// startTimeout is how long a process of ours may take to be ready.
const startTimeout = 30 * time.Second

// startHolder starts the process that maps a file of size bytes, and returns where. It
// ends when in is closed, which happens at the latest when this process ends.
func startHolder(file *os.File, size uint64) (holder *process, at uint64, err error) {
	program, err := holderFile()
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = program.Close() }()
	cmd := exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program.Fd()))
	cmd.Args = []string{holderName}
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{file}
	holder, err = start(cmd, func(in io.Writer, out io.Reader) error {
		if err := binary.Write(in, binary.NativeEndian, size); err != nil {
			return err
		}
		return binary.Read(out, binary.NativeEndian, &at)
	})
	return holder, at, err
}

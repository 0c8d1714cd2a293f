// Package wire is what the bench on the host and the first process of the
// guest say to each other: a configuration that goes in with the initramfs, and
// frames that come out over one virtio-serial port.
//
// One port for everything keeps the order of standard output and standard error,
// and nothing that the kernel or the firmware prints can mix with it.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// PortName is the name of the virtio-serial port, as it is found in
// /sys/class/virtio-ports/*/name of the guest.
const PortName = "faultline.vm"

// ConfigPath is where the guest's initramfs holds the Config, as JSON.
const ConfigPath = "/faultline-vm.json"

// ModuleDir is the folder of the initramfs that holds Config.Modules.
const ModuleDir = "/faultline-modules"

// The mount tags of the 9p exports.
const (
	TagRoot   = "root"   // the machine's root file system
	TagTree   = "tree"   // the working tree
	TagKernel = "kernel" // the unpacked kernel package; only if Config.KernelDir
)

// Config tells the guest what to do.
type Config struct {
	Kernel    string   // id of kernels.yaml
	Command   []string // the program and its arguments
	Env       []string // NAME=value, the whole environment of the command
	Dir       string   // working directory of the command
	Tree      string   // where the working tree is mounted
	Modules   []string // files in ModuleDir, in the order to load them
	KernelDir bool     // whether TagKernel is exported, with boot/ and modules/
	Systemd   bool     // whether systemd is PID 1 and the command is its service
}

// Kind says what a frame carries.
type Kind byte

// The kinds of frames.
const (
	Started Kind = 'S' // the kernel's release; sent when the command starts
	Stdout  Kind = 'O' // output of the command
	Stderr  Kind = 'E' // error output of the command
	Exit    Kind = 'X' // one byte, the exit status; the last frame
	Fatal   Kind = 'F' // why the guest can't run the command; the last frame
	Dump    Kind = 'D' // what the guest's processes do; the answer to AskDump
)

// AskDump is the one byte that the host sends, when the time is over, to learn
// what the guest's processes do.
const AskDump = '?'

// MaxPayload is the largest payload of a frame, in bytes.
const MaxPayload = 64 << 10

const headerSize = 5

// ErrFrame is returned for bytes that are no frame.
var ErrFrame = errors.New("not a frame of the test bench")

// Writer writes frames. It may be used by several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer of frames to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one frame. Each frame is one Write, so that a kernel that dies
// between two frames leaves whole ones behind.
func (w *Writer) Send(kind Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("sending a frame of %d bytes: at most %d are allowed", len(payload), MaxPayload)
	}
	frame := make([]byte, headerSize, headerSize+len(payload))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	frame = append(frame, payload...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(frame)
	return err
}

// Stream returns a writer that sends what it is given as frames of one kind.
func (w *Writer) Stream(kind Kind) io.Writer { return stream{w, kind} }

type stream struct {
	w    *Writer
	kind Kind
}

func (s stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, MaxPayload)
		if err := s.w.Send(s.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Receive reads one frame. It returns io.EOF at the end, io.ErrUnexpectedEOF
// within a frame, and an error that is ErrFrame for anything else.
func Receive(r io.Reader) (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	kind := Kind(header[0])
	switch kind {
	case Started, Stdout, Stderr, Exit, Fatal, Dump:
	default:
		return 0, nil, fmt.Errorf("reading kind %q: %w", header[0], ErrFrame)
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > MaxPayload {
		return 0, nil, fmt.Errorf("reading %d bytes of kind %q: %w", size, header[0], ErrFrame)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

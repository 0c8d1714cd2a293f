// Package cpio writes initramfs archives in the "newc" format that the kernel
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
package cpio

import (
	"fmt"
	"io"
	"path"
)

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
	trailer  = "TRAILER!!!"
)

// Writer writes one archive. The first error sticks and is returned by Close.
type Writer struct {
	w     io.Writer
	inode int
	dirs  map[string]bool
	err   error
}

// NewWriter returns a Writer of an archive to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, dirs: map[string]bool{}} }

// Dir adds a folder, and the folders above it that the archive lacks.
func (w *Writer) Dir(name string) {
	name = clean(name)
	if name == "." || w.dirs[name] {
		return
	}
	w.Dir(path.Dir(name))
	w.dirs[name] = true
	w.entry(name, modeDir|0o755, nil, 0, 0)
}

// File adds a file with its content and permissions, and the folders above it.
func (w *Writer) File(name string, permissions uint32, content []byte) {
	name = clean(name)
	w.Dir(path.Dir(name))
	w.entry(name, modeFile|permissions, content, 0, 0)
}

// Char adds a character device, and the folders above it.
func (w *Writer) Char(name string, permissions uint32, major, minor int) {
	name = clean(name)
	w.Dir(path.Dir(name))
	w.entry(name, modeChar|permissions, nil, major, minor)
}

// Close ends the archive. It does not close the writer below.
func (w *Writer) Close() error {
	w.entry(trailer, 0, nil, 0, 0)
	return w.err
}

// clean makes a name relative to the archive's root, which is ".".
func clean(name string) string {
	if name = path.Clean("/" + name); name == "/" {
		return "."
	}
	return name[1:]
}

func (w *Writer) entry(name string, mode uint32, content []byte, major, minor int) {
	if w.err != nil {
		return
	}
	w.inode++
	links := 1
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		w.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	w.write([]byte(header + name + "\x00"))
	w.pad(len(header) + len(name) + 1)
	w.write(content)
	w.pad(len(content))
}

// pad fills up to the next multiple of four bytes.
func (w *Writer) pad(n int) { w.write(make([]byte, (4-n%4)%4)) }

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

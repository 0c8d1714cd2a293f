package main

import (
	"errors"
	"os"

	"faultline.dev/faultline/test/vm/internal/wire"
)

func startSystemd(wire.Config, *os.File) error { return errors.New("systemd") }

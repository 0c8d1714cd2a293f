// Command benchtable prints the reports that it is given as tables.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"faultline.dev/faultline/test/bench"
)

func main() {
	for _, path := range os.Args[1:] {
		if err := show(path); err != nil {
			fmt.Fprintf(os.Stderr, "benchtable: %v\n", err)
			os.Exit(1)
		}
	}
}

func show(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading report: %w", err)
	}
	var report bench.Report
	if err := json.Unmarshal(data, &report); err != nil {
		return fmt.Errorf("reading report %s: %w", path, err)
	}
	fmt.Println()
	return bench.WriteTable(os.Stdout, report)
}

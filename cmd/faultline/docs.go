package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

//go:generate go run . gen-docs ../../docs/cli

// docsCommand writes the reference of the command line.
func (a *app) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gen-docs DIR",
		Short:  "Write the reference of the command line as Markdown, a page per command",
		Hidden: true,
		Args:   exactly(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := documented(cmd, args[0])
			if err != nil {
				return err
			}
			return doc.GenMarkdownTree(root, args[0])
		},
	}
}

// manCommand writes the manual pages.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gen-man DIR",
		Short:  "Write the manual pages, one per command",
		Hidden: true,
		Args:   exactly(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := documented(cmd, args[0])
			if err != nil {
				return err
			}
			// The same input must make the same pages.
			date := time.Unix(0, 0).UTC()
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "faultline", Manual: "Faultline", Date: &date}, args[0])
		},
	}
}

// documented makes the directory and the tree of commands independent of where
// the program runs.
func documented(cmd *cobra.Command, dir string) (*cobra.Command, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	root := cmd.Root()
	root.DisableAutoGenTag = true
	if f := root.PersistentFlags().Lookup("state-dir"); f != nil {
		f.DefValue = defaultStateDir
	}
	return root, nil
}

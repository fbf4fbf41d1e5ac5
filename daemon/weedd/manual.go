//go:build docs

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra/doc"

	"weedd/daemon/config"
)

// With the tag docs this is another program: go run -tags docs ./daemon/weedd DIR
// writes what packages say about weedd, taken from the commands and from the table
// of keys: manual pages into DIR/man, completions into DIR/completion. The day that
// the pages show comes from $SOURCE_DATE_EPOCH, so that they are the same again.
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags docs ./daemon/weedd DIRECTORY")
		os.Exit(exitUsage)
	}
	if err := writeDocs(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitError)
	}
}

func writeDocs(dir string) error {
	var epoch int64
	if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &epoch); err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	day := time.Unix(epoch, 0).UTC()
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	for _, d := range []string{man, completion} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	root := newRoot()
	root.DisableAutoGenTag = true
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{
		{filepath.Join(man, "weedd.toml.5"), func(w io.Writer) error { return config.WriteManual(w, day) }},
		{filepath.Join(completion, "weedd.bash"), func(w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
		{filepath.Join(completion, "weedd.zsh"), root.GenZshCompletion},
		{filepath.Join(completion, "weedd.fish"), func(w io.Writer) error { return root.GenFishCompletion(w, true) }},
	} {
		if err := writeFile(f.path, f.write); err != nil {
			return err
		}
	}
	return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &day, Source: "weedd", Manual: "weedd"}, man)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

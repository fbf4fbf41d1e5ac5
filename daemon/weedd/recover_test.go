package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRecoverAsksForConsentAndForAMaster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "weedd.toml")
	text := "data = \"" + dir + "/data\"\naddress = \"127.0.0.1\"\nroles = [\"master\"]\n[master]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := runTool(t, newRecoverCommand(), "--config", file); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without consent: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("something was done without consent")
	}
	if _, _, err := runTool(t, newRecoverCommand(), "--config", file, "--yes"); exitCode(err) != exitError || !strings.Contains(err.Error(), "never a master") {
		t.Errorf("a host without raft state: %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.NewReplacer(`["master"]`, `["volume"]`, "[master]", "[volume]").Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := runTool(t, newRecoverCommand(), "--config", file, "--yes"); exitCode(err) != exitError || !strings.Contains(err.Error(), "no master, by its configuration") {
		t.Errorf("a volume server: %v", err)
	}
}

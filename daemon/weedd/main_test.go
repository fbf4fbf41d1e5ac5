package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// weedd runs a command line in this process.
func weedd(args ...string) (code int, stdout, stderr string) {
	var out, err strings.Builder
	code = execute(args, &out, &err)
	return code, out.String(), err.String()
}

func TestCommandLinesThatAreWrongExitWith2AndSayWhereToLook(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"rnu":                       "weedd: unknown command \"rnu\" for \"weedd\"\n\nDid you mean this?\n\trun\n\nTry: weedd --help\n",
		"run --confg x":             "weedd: unknown flag: --confg\nTry: weedd run --help\n",
		"run x":                     "weedd: unknown command \"x\" for \"weedd run\"\nTry: weedd run --help\n",
		"config chekc":              "weedd: unknown command \"chekc\" for \"weedd config\"\nTry: weedd config --help\n",
		"config check --config":     "weedd: flag needs an argument: --config\nTry: weedd config check --help\n",
		"run --config /nowhere/x.t": "weedd: the configuration is refused, 1 fault:\n  /nowhere/x.t: cannot be read: no such file or directory; name a file with --config or WEEDD_CONFIG, and see `weedd config default` for a first one\n",
	} {
		code, _, stderr := weedd(strings.Fields(line)...)
		if code != 2 || stderr != want {
			t.Errorf("%s: exit code %d\n%s\nwant 2\n%s", line, code, stderr, want)
		}
	}
}

func TestConfigCheckGivesAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "weedd.toml")
	if err := os.WriteFile(path, []byte("roles = [\"master\"]\naddress = \"127.0.0.1\"\n[master]\nhtpp = 1\nexpect = \"1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "weedd: the configuration is refused, 2 faults:\n" +
		"  " + path + ":4: master.htpp: unknown key; did you mean master.http?\n" +
		"  " + path + ":5: master.expect: \"1\" is no whole number; write one without quotes, as in 1\n"
	for _, command := range []string{"check", "show"} {
		if code, stdout, stderr := weedd("config", command, "--config", path); code != 2 || stderr != want || stdout != "" {
			t.Errorf("%s: exit code %d\n%s\n%s\nwant 2\n%s", command, code, stdout, stderr, want)
		}
	}
}

func TestConfigCommandsOnAGoodFile(t *testing.T) {
	t.Parallel()
	const path = "../../configs/one-node.toml"
	code, stdout, stderr := weedd("config", "check", "-c", path)
	if code != 0 || stdout != path+" is good: master and volume at 127.0.0.1\n" {
		t.Errorf("check: exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = weedd("config", "show", "-c", path)
	if code != 0 || !regexp.MustCompile(`(?m)^address = "127.0.0.1"  # `+regexp.QuoteMeta(path)+`:\d+$`).MatchString(stdout) {
		t.Errorf("show: exit code %d\n%s%s", code, stdout, stderr)
	}
	want, err := os.ReadFile("../../configs/default.toml")
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := weedd("config", "default"); code != 0 || stdout != string(want) {
		t.Errorf("default: exit code %d, and the text differs from configs/default.toml\n%s", code, stderr)
	}
}

func TestVersionAsTextAndJSON(t *testing.T) {
	t.Parallel()
	_, text, _ := weedd("version")
	_, asJSON, _ := weedd("version", "--json")
	var v versionInfo
	if err := json.Unmarshal([]byte(asJSON), &v); err != nil {
		t.Fatalf("%v: %s", err, asJSON)
	}
	if v.Version == "" || !strings.HasPrefix(text, "weedd "+v.Version+"\n") || !strings.Contains(text, v.Go) {
		t.Errorf("text %q, JSON %+v", text, v)
	}
	if _, short, _ := weedd("--version"); short != "weedd "+v.Version+"\n" {
		t.Errorf("--version prints %q", short)
	}
}

func TestEveryCommandExplainsItselfWithAnExample(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q", c.CommandPath(), c.Short)
		}
		if c.RunE != nil && len(c.Commands()) == 0 && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Run != nil {
			t.Errorf("%s uses Run: its errors cannot reach the exit code", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot())
}

func TestCompletionOffersFilesForConfig(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, script, _ := weedd("completion", shell); code != 0 || !strings.Contains(script, "weedd") {
			t.Errorf("no script for %s", shell)
		}
	}
	_, out, _ := weedd("__complete", "run", "--config", "")
	if !strings.HasPrefix(out, "toml\n:8\n") { // 8: files with these endings
		t.Errorf("completion of --config answers %q", out)
	}
}

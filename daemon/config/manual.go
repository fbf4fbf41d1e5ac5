package config

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteManual prints weedd.toml(5), the manual page of all keys, in the macros of
// man(7).
func WriteManual(w io.Writer, day time.Time) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH WEEDD.TOML 5 %s weedd weedd\n", day.Format(time.DateOnly))
	b.WriteString(`.SH NAME
weedd.toml \- configuration of weedd
.SH SYNOPSIS
.I ` + roff(DefaultPath) + `
.SH DESCRIPTION
A file in TOML gives a node its roles and settings.
.BR weedd\-run (1)
reads the one that
.B \-\-config
names, else the one in
.RB $ ` + PathVariable + `,
else the one above. Anything that is not understood is refused:
.B weedd config check
says what is wrong, all at once,
.B weedd config show
prints what is in force and where it comes from, and
.B weedd config default
prints a first file.
.PP
Sizes and durations have units, as in "512MiB", "30GB", "10s" and "168h".
.PP
Keys marked (live) change without a restart: edit the file, then
.BR "systemctl reload weedd" ,
or send SIGHUP to the process.
`)
	for _, sec := range sections {
		if sec.name == "" {
			b.WriteString(".SH KEYS AT THE TOP\n")
		} else {
			fmt.Fprintf(&b, ".SH [%s]\n%s\n", roff(sec.name), roff(sec.doc))
		}
		for _, k := range keys {
			if k.section() == sec.name {
				k.writeManual(&b)
			}
		}
	}
	b.WriteString(`.SH ENVIRONMENT
Every key can be overridden by a variable that is named after section and key, such as
.B ` + envPrefix + `MASTER_HTTP
for
.B http
in [master]. Lists are separated by commas there, and a disk is path:type:max.
.TP
.B CREDENTIALS_DIRECTORY
Set by systemd. Files cluster.key, jwt-write.key and jwt-read.key in it are used in place of
.BR cluster_key ,
and of
.BR write_key " and " read_key
in [access].
.SH EXAMPLE
A node with both roles, one of three:
.PP
.EX
roles = ["master", "volume"]
address = "192.168.100.117"
cluster_key = "/etc/weedd/cluster.key"

[gossip]
join = ["192.168.100.117", "192.168.100.172", "192.168.100.2"]

[master]
expect = 3
default_replication = "001"

[[volume.disks]]
path = "/srv/disk1"
.EE
.SH SEE ALSO
.BR weedd (1),
.BR weedd\-config (1),
.BR systemd.exec (5)
`)
	_, err := w.Write(b.Bytes())
	return err
}

// writeManual prints one entry; a key without text of its own belongs to the one
// before.
func (k key) writeManual(b *bytes.Buffer) {
	fmt.Fprintf(b, ".TP\n.B %s\n", roff(k.short()))
	if k.doc != "" {
		b.WriteString(roff(k.doc) + "\n")
	}
	var facts []string
	switch {
	case k.name == disksKey:
		facts = append(facts, "Keys: "+strings.Join(diskKeys, ", ")+".")
	case k.required:
		facts = append(facts, "Example: "+k.sample+".")
	case k.sample != "":
		facts = append(facts, "Not set by default. Example: "+k.sample+".")
	default:
		facts = append(facts, "Default: "+k.example()+".")
	}
	if k.live {
		facts = append(facts, "(live)")
	}
	fmt.Fprintf(b, ".br\n%s\n", roff(strings.Join(facts, " ")))
}

// roff escapes text: a backslash begins a request anywhere, a dot or an apostrophe
// at the beginning of a line; a hyphen is no minus.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

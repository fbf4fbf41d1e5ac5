package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"weedd/cluster"
	"weedd/daemon/config"
)

// hintText says what somebody who has just started a node may do with it.
func hintText(cfg config.Config) string {
	host := cfg.Address
	if cfg.Loopback() {
		host = "localhost"
	}
	at := func(l config.Listen) string { return net.JoinHostPort(host, strconv.Itoa(l.Port)) }
	var b strings.Builder
	b.WriteString("\nweedd is ready.")
	if cfg.Has(cluster.RoleMaster) {
		master := at(cfg.Master.HTTP)
		fmt.Fprintf(&b, ` In another terminal:

  curl -F file=@some.jpg http://%[1]s/submit    store a file; the answer names its fid and fileUrl
  curl -L -o copy.jpg http://%[1]s/FID          read it back (or take the fileUrl itself)
  weedd status --master %[1]s                   who is there, who leads, what is wrong
`, master)
	} else {
		fmt.Fprintf(&b, "\n\n  curl http://%s/status                    what this volume server holds\n", at(cfg.Volume.HTTP))
	}
	b.WriteString("\nCtrl-C stops it; what was stored stays.\n\n")
	return b.String()
}

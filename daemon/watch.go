package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"weedd/cluster"
	"weedd/daemon/config"
)

// watchEvery is how often the node looks at itself.
const watchEvery = 250 * time.Millisecond

// StopGrace is what a planned stop may take after Limits.Stop, to close everything.
// What waits longer, for a disk that hangs, would wait for ever; the program round the
// daemon ends then.
const StopGrace = 15 * time.Second

// killAfter is when systemd may kill what has not even ended then.
const killAfter = 5 * time.Second

// watch tells gossip, systemd and the program round it how the node is, and reloads
// the configuration when asked to: so systemd hears all of it in order.
//
// systemd hears READY when the ports serve, not when the cluster has a quorum:
// three hosts that boot one after another must not wait for one another, and
// reads of what is here are served at once. What is missing stands in STATUS and
// at /readyz. WATCHDOG is sent only after the node's own ports have answered.
func (d *Daemon) watch(ctx context.Context) error {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		d.log.Warn("systemd watchdog is off", "err", err)
	}
	d.notify(sd.SdNotifyReady)
	defer d.notify(sd.SdNotifyStopping)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	s := state{}
	for {
		d.look(&s)
		if interval > 0 && time.Since(s.fed) > interval/3 && d.answers(ctx, interval/3) {
			d.notify(sd.SdNotifyWatchdog)
			s.fed = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.stopping:
			<-ctx.Done()
			return nil
		case again := <-d.opts.Reload:
			d.reload(again)
		case <-tick.C:
		}
	}
}

// state is what was last told.
type state struct {
	status string
	ready  bool
	told   bool
	fed    time.Time
}

// look tells what has changed since it looked last.
func (d *Daemon) look(s *state) {
	reasons := d.Reasons()
	status := "serving"
	if len(reasons) > 0 {
		status = "not ready: " + strings.Join(reasons, "; ")
	}
	if status != s.status {
		s.status = status
		d.notify("STATUS=" + status)
		d.log.Info("state", "status", status)
	}
	if ready := len(reasons) == 0; ready != s.ready {
		s.ready = ready
		d.mesh.SetSelf(func(n *cluster.Node) { n.Ready = ready })
	}
	if s.ready && !s.told {
		s.told = true
		if d.opts.Ready != nil {
			d.opts.Ready()
		}
	}
}

// reload changes to what is configured now. systemd counts the reload as done with
// the second message.
func (d *Daemon) reload(again func() config.Config) {
	d.notify(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
	cfg := again()
	d.mesh.SetJoin(cfg.Join())
	d.stopLimit.Store(int64(cfg.Limits.Stop))
	if d.master != nil {
		d.master.setLimits(cfg)
	}
	if d.volume != nil {
		d.volume.setLimits(cfg)
	}
	d.notify(sd.SdNotifyReady)
}

// notifyStopping tells systemd that the planned stop begins, and how long it may take,
// should TimeoutStopSec be shorter.
func (d *Daemon) notifyStopping(within time.Duration) {
	d.notify(fmt.Sprintf("%s\nSTATUS=stopping: hands over and finishes requests\nEXTEND_TIMEOUT_USEC=%d",
		sd.SdNotifyStopping, (within + StopGrace + killAfter).Microseconds()))
}

// notify tells systemd; without it, nothing happens.
func (d *Daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Debug("systemd notification", "state", state, "err", err)
	}
}

// answers asks the node's own public ports for a sign of life.
func (d *Daemon) answers(ctx context.Context, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var listeners []net.Listener
	if d.master != nil {
		listeners = append(listeners, d.master.listener)
	}
	if d.volume != nil {
		listeners = append(listeners, d.volume.listener)
	}
	scheme := "http"
	if d.cfg.TLS.Cert != "" {
		scheme = "https"
	}
	// The certificate is for the names that clients use, and this is no client.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, l := range listeners {
		if err := healthy(ctx, client, scheme, l); err != nil {
			d.log.Error("a port of this node does not answer; the watchdog is not fed", "port", l.Addr(), "err", err)
			return false
		}
	}
	return true
}

func healthy(ctx context.Context, client *http.Client, scheme string, l net.Listener) error {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return fmt.Errorf("own address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("own address: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

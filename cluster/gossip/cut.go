package gossip

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// cutTransport gives cfg a transport that loses what is sent to addresses for
// which cut is true.
func cutTransport(cfg *memberlist.Config, cut func(addr string) bool) (err error) {
	const tries = 10 // a free TCP port need not be a free UDP port
	var t *memberlist.NetTransport
	for range tries {
		t, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{cfg.BindAddr}, BindPort: cfg.BindPort, Logger: cfg.Logger})
		if err == nil || cfg.BindPort != 0 {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("open gossip at %s: %w", cfg.BindAddr, err)
	}
	cfg.BindPort = t.GetAutoBindPort()
	cfg.AdvertisePort = cfg.BindPort
	cfg.Transport = &cutting{t, cut}
	return nil
}

type cutting struct {
	*memberlist.NetTransport
	cut func(addr string) bool
}

// WriteTo implements memberlist.Transport.
func (t *cutting) WriteTo(b []byte, addr string) (time.Time, error) {
	if t.cut(addr) {
		return time.Now(), nil
	}
	return t.NetTransport.WriteTo(b, addr)
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *cutting) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout implements memberlist.Transport.
func (t *cutting) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	if t.cut(addr) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ETIMEDOUT}
	}
	return t.NetTransport.DialTimeout(addr, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *cutting) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

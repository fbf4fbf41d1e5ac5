package daemontest_test

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumetest/replay"
)

// The files in testdata/transcripts are requests to the reference server,
// SeaweedFS 4.44, and its answers, while servers die and come back, limits are
// reached and time passes. They are replayed against whole daemons. Others, for
// which one role over a cluster in memory will do, are in volumehttp and masterhttp.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	reasons := replay.ReadReasons(t, "../../volume/DESIGN.md")
	maps.Copy(reasons, replay.ReadReasons(t, "../../cluster/DESIGN.md"))
	replay.Run(t, "testdata/transcripts", replay.Table{Reasons: reasons, Deviations: deviations, OutOfScope: outOfScope, Rules: rules},
		func(t *testing.T, file string) *replay.Player {
			switch file {
			case "limits", "readmode":
				return limited(t)
			case "nohttp":
				c := daemontest.Start(t, 1, func(_ int, cfg *config.Config) { cfg.Roles, cfg.Master.Files = cluster.RoleMaster, false })
				return replay.NewPlayer(t, map[string]string{"master": c.Nodes[0].Self.MasterHTTP})
			}
			return spread(t)
		})
}

const (
	// How long requests wait for a leader, and for room: shorter than usual, for some wait to the end.
	holdTime = 2 * time.Second
	roomTime = 500 * time.Millisecond

	oneMiB = config.MiB
)

// spread makes three masters, and three volume servers in two data centers.
func spread(t *testing.T) *replay.Player {
	places := [][2]string{{"dc1", "rack1"}, {"dc1", "rack2"}, {"dc2", "rack1"}}
	c := daemontest.New(t)
	for i := range 6 {
		c.Add(3, func(_ int, cfg *config.Config) {
			cfg.Limits.Hold, cfg.Roles = holdTime, cluster.RoleMaster
			if i >= 3 {
				cfg.Roles = cluster.RoleVolume
				cfg.DataCenter, cfg.Rack = places[i-3][0], places[i-3][1]
			}
			if i == 5 {
				cfg.Volume.Public = config.Listen{Host: "127.0.0.1"}
			}
		})
	}
	c.AwaitReady()
	c.AwaitReported()
	servers := map[string]*daemontest.Node{"leader": c.Leader()}
	for i, n := range c.Nodes[3:] {
		servers[fmt.Sprint("volume", i+1)] = n
	}
	for _, n := range c.Nodes[:3] {
		if n != servers["leader"] && servers["follower"] == nil {
			servers["follower"] = n
		} else if n != servers["leader"] {
			servers["follower2"] = n
		}
	}
	p := player(t, c, servers)
	p.Hosts["volume3public"] = servers["volume3"].Self.PublicURL
	for _, q := range []string{"count=3&dataCenter=dc1&rack=rack1", "count=2&dataCenter=dc1&rack=rack2", "count=1&dataCenter=dc2"} {
		if status, body, err := servers["leader"].Master("GET", "/vol/grow?"+q); err != nil || status != 200 {
			t.Fatalf("grow: %d %s %v", status, body, err)
		}
	}
	return p
}

// limited makes a master, and volume servers of four kinds of disks with little room:
// so little that the first volume takes all that there is for its kind, for which the
// reference makes four.
func limited(t *testing.T) *replay.Player {
	c := daemontest.New(t)
	servers := map[string]*daemontest.Node{}
	for _, s := range []struct {
		name string
		disk config.Disk
		edit func(*config.Config)
	}{
		{"master", config.Disk{}, func(cfg *config.Config) {
			cfg.Roles, cfg.Master.VolumeSizeLimit = cluster.RoleMaster, oneMiB
			cfg.Limits.Hold = 10 * time.Second // a volume for which there is no room after all is given up before that
		}},
		{"volume", config.Disk{Max: 1}, func(cfg *config.Config) {
			cfg.Limits.FileSize, cfg.Limits.InFlight = oneMiB, config.Size(2*needle.Footprint(900_000))
		}},
		{"volumebig", config.Disk{Type: "ssd", Max: 2}, func(cfg *config.Config) { cfg.Limits.FileSize, cfg.Limits.Downloads = 64*oneMiB, 8*oneMiB }},
		{"volumelocal", config.Disk{Type: "nvme", Max: 1}, func(cfg *config.Config) { cfg.Volume.ReadMode = "local" }},
		{"volumeredirect", config.Disk{Type: "tape", Max: 1}, func(cfg *config.Config) { cfg.Volume.ReadMode = "redirect" }},
	} {
		servers[s.name] = c.Add(1, func(_ int, cfg *config.Config) {
			s.disk.Path = cfg.Volume.Disks[0].Path
			cfg.Roles, cfg.Volume.Disks, cfg.Limits.Hold = cluster.RoleVolume, []config.Disk{s.disk}, roomTime
			s.edit(cfg)
		})
	}
	c.AwaitReady()
	c.AwaitReported()
	return player(t, c, servers)
}

// player makes one that does what the transcripts say must happen in between.
func player(t *testing.T, c *daemontest.Cluster, servers map[string]*daemontest.Node) *replay.Player {
	hosts := map[string]string{}
	for name, n := range servers {
		if hosts[name] = n.Self.MasterHTTP; hosts[name] == "" {
			hosts[name] = n.Self.VolumeHTTP
		}
	}
	p := replay.NewPlayer(t, hosts)
	s := &stage{c: c, servers: servers, p: p}
	t.Cleanup(s.hangUp)
	p.Setup = s.set
	return p
}

// stage is a cluster to which things happen.
type stage struct {
	c       *daemontest.Cluster
	servers map[string]*daemontest.Node
	p       *replay.Player
	stalled []net.Conn
}

func (s *stage) set(what string) {
	t := s.c.T
	switch what {
	case "volume2 has been killed":
		s.servers["volume2"].Kill()
	case "volume2 has been started again":
		s.servers["volume2"].Start()
		s.c.AwaitReady()
		s.c.AwaitInSync()
		// What was deleted while it was away stays so.
		if status, _, err := s.servers["volume2"].Do("GET", "/"+s.p.FIDs["r"]+"_5", nil); err != nil || status != 404 {
			t.Errorf("a file that was deleted while a copy was away: %d %v", status, err)
		}
	case "wait 63 seconds":
		s.c.Skip(63 * time.Second)
	case "the leader has been killed and no new one is elected yet":
		s.servers["leader"].Kill()
	case "a new leader is elected; for 15 s it waits for all volume servers", "15 s later": // here it is warm at once
		s.c.Leader()
	case "two of three masters are dead":
		s.servers["follower2"].Kill()
		s.c.Await("nobody leads", func() error {
			if status, _, err := s.servers["follower"].Master("GET", "/cluster/healthz"); err != nil || status != 503 {
				return fmt.Errorf("%d %v", status, err)
			}
			return nil
		})
	case "three assigns with dataSize=2000000 and a wait of six seconds":
		s.c.Await("the master hears that the volume is full", func() error { // it counts what is written, not dataSize
			if status, _, err := s.servers["master"].Master("GET", "/dir/assign?disk=hdd&dataSize=2000000"); err != nil || status == 200 {
				return fmt.Errorf("%d %v", status, err)
			}
			return nil
		})
	case "two uploads with Content-Length 900000 have sent 1000 bytes each and stall":
		for _, delta := range []string{"_3", "_4"} {
			s.stall("volume", "PUT /"+s.p.FIDs["a"]+delta+" HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\nExpect: 100-continue\r\n\r\n", "100")
			if _, err := s.stalled[len(s.stalled)-1].Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	case "the volume has been marked read-only by the administrator":
		id, err := volume.ParseFileID(s.p.FIDs["b"])
		if err != nil {
			t.Fatal(err)
		}
		s.c.Operate(cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: []volume.ID{id.Volume}}})
	case "two downloads of the 16 MiB file are open and not read":
		s.stall("volumebig", "GET /"+s.p.FIDs["b"]+" HTTP/1.1\r\nHost: x\r\n\r\n", "200") // one alone is over the limit
	case "the two connections are closed":
		s.hangUp()
	default:
		t.Fatalf("nobody does this: %s", what)
	}
}

// stall sends the beginning of a request, waits for the answer's first line, and does
// nothing more.
func (s *stage) stall(server, request, status string) {
	t := s.c.T
	conn, err := net.Dial("tcp", s.p.Hosts[server])
	if err != nil {
		t.Fatal(err)
	}
	s.stalled = append(s.stalled, conn)
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, status) {
		t.Fatalf("%.40q: %q %v", request, line, err)
	}
}

func (s *stage) hangUp() {
	var errs []error
	for _, conn := range s.stalled {
		errs = append(errs, conn.Close())
	}
	if s.stalled = nil; errors.Join(errs...) != nil {
		s.c.T.Error(errors.Join(errs...))
	}
}

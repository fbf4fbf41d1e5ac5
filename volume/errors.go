package volume

import (
	"errors"
	"fmt"
)

// The errors that cross package and process borders. Text is never matched;
// Code and FromCode carry the identity over the wire.
var (
	ErrBadRequest     = errors.New("bad request")              // the client's mistake in an id, header or body
	ErrBadSpec        = errors.New("bad volume specification") // replication, ttl, collection, disk
	ErrNotFound       = errors.New("not found")                // no such file: absent, deleted, expired
	ErrCookie         = errors.New("cookie does not match")    // the id's random part is another one's
	ErrNoVolume       = errors.New("volume not found")         // this node, or the cluster, has no such volume
	ErrReadOnly       = errors.New("volume is read-only")      // by hand, by a failed disk, or no room
	ErrCorrupt        = errors.New("corrupt data")             // bytes fail their checksum
	ErrNotPrimary     = errors.New("not the primary")          // another copy leads; see NotPrimaryError
	ErrStale          = errors.New("epoch has passed")         // the answer or question belongs to an older epoch
	ErrUnavailable    = errors.New("temporarily unavailable")  // worth a retry: no primary, no quorum, too slow
	ErrOutcomeUnknown = errors.New("outcome unknown")          // it may or may not have happened
	ErrExists         = errors.New("already exists")           // a create-only write of a key that is there
	ErrTooLarge       = errors.New("too large")                // body, header or record over its limit
	ErrBusy           = errors.New("too many bytes in flight") // 429
	ErrNoSpace        = errors.New("no space left")            // the disk or the cluster has no room
	ErrUnsatisfiable  = errors.New("placement cannot be met")  // no set of nodes fits the placement asked for
	ErrNotLeader      = errors.New("not the leader")           // see NotLeaderError
	ErrDigest         = errors.New("content digest mismatch")  // Content-MD5 and the like
	ErrUnauthorized   = errors.New("not allowed")              // token or address refused
	ErrClosed         = errors.New("closed")                   // shutting down
)

// codes is in the order in which Code looks: what says most about the remedy
// comes first.
var codes = []struct {
	code string
	err  error
}{
	{"not_leader", ErrNotLeader}, {"not_primary", ErrNotPrimary}, {"stale", ErrStale}, {"unknown", ErrOutcomeUnknown},
	{"not_found", ErrNotFound}, {"cookie", ErrCookie}, {"no_volume", ErrNoVolume}, {"read_only", ErrReadOnly},
	{"corrupt", ErrCorrupt}, {"exists", ErrExists}, {"too_large", ErrTooLarge}, {"busy", ErrBusy},
	{"no_space", ErrNoSpace}, {"unsatisfiable", ErrUnsatisfiable}, {"digest", ErrDigest}, {"unauthorized", ErrUnauthorized},
	{"bad_spec", ErrBadSpec}, {"bad_request", ErrBadRequest}, {"closed", ErrClosed}, {"unavailable", ErrUnavailable},
}

// Code gives the wire form of the sentinel in err, "" for none.
func Code(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return ""
}

// FromCode rebuilds an error from its code and text, so that errors.Is works on
// the other side of a connection.
func FromCode(code, text string) error {
	for _, c := range codes {
		if c.code == code {
			return &remoteError{c.err, text}
		}
	}
	return errors.New(text)
}

type remoteError struct {
	sentinel error
	text     string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

// CorruptError says where bytes fail their check. It is ErrCorrupt.
type CorruptError struct {
	Volume ID
	Offset int64 // in .dat
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("volume %d: corrupt record at offset %d: %s", e.Volume, e.Offset, e.Reason)
}

// Is makes a CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// NotPrimaryError names the node that leads the volume, "" when unknown. It is
// ErrNotPrimary.
type NotPrimaryError struct {
	Volume  ID
	Primary NodeID
}

func (e *NotPrimaryError) Error() string {
	return fmt.Sprintf("volume %d is led by node %q", e.Volume, e.Primary)
}

// Is makes a NotPrimaryError an ErrNotPrimary.
func (e *NotPrimaryError) Is(target error) bool { return target == ErrNotPrimary }

// ReadOnlyError says that a volume takes no writes by decision: an operator marked it
// so, its last copy failed, or it is about to end. It is ErrReadOnly.
type ReadOnlyError struct {
	Volume ID
	State  State
}

func (e *ReadOnlyError) Error() string {
	if e.State == StateExpired {
		return fmt.Sprintf("volume %d has expired and takes no writes", e.Volume)
	}
	return fmt.Sprintf("volume %d is read only", e.Volume) // as SeaweedFS says it
}

// Is makes a ReadOnlyError an ErrReadOnly.
func (e *ReadOnlyError) Is(target error) bool { return target == ErrReadOnly }

// ElsewhereError says that this node has no copy of the volume fit to answer,
// and which other nodes do. It is ErrNoVolume.
type ElsewhereError struct {
	Volume ID
	Nodes  []Node
	Behind bool // a copy is here, and knows that it may lack what was acknowledged
}

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("volume %d is held by %d other nodes", e.Volume, len(e.Nodes))
}

// Is makes an ElsewhereError an ErrNoVolume.
func (e *ElsewhereError) Is(target error) bool { return target == ErrNoVolume }

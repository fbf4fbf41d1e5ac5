package replica

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"weedd/volume"
)

// Kind says which of its fields a Message uses.
type Kind byte

// The kinds of messages between two copies of one volume. Hello, Batch, Compact,
// FinishCompaction and AbortCompaction go from the primary to a follower, the
// others back.
const (
	KindHello   Kind = 1 + iota // Stream, Entry, From, To, Epochs, End, Committed
	KindWelcome                 // Stream, End, Checksum, Leaving
	KindRefusal                 // Stream, Code, Reason, Entry (the newest known, if any), End
	KindBatch                   // Stream, Seq, Offset, Bytes, Committed
	KindAck                     // Stream, Seq, Durable

	KindCompact          // Stream, Attempt, Compaction, Committed
	KindFinishCompaction // Stream, Attempt, End (of the log, all committed)
	KindAbortCompaction  // Stream, Attempt
	KindBuilt            // Stream, Attempt
	KindReady            // Stream, Attempt, End and Checksum (of the new .dat)
	KindCompactionFailed // Stream, Attempt, Reason

	KindLeaving // Stream
)

func (k Kind) String() string {
	switch k {
	case KindHello:
		return "hello"
	case KindWelcome:
		return "welcome"
	case KindRefusal:
		return "refusal"
	case KindBatch:
		return "batch"
	case KindAck:
		return "ack"
	case KindCompact:
		return "compact"
	case KindFinishCompaction:
		return "finish compaction"
	case KindAbortCompaction:
		return "abort compaction"
	case KindBuilt:
		return "built"
	case KindReady:
		return "ready"
	case KindCompactionFailed:
		return "compaction failed"
	case KindLeaving:
		return "leaving"
	}
	return fmt.Sprintf("message of kind %d", byte(k))
}

// Code says why a follower refuses a Hello.
type Code string

// The codes of a Refusal.
const (
	CodeStale     Code = "stale"      // it knows a newer entry, which it sends along when it can
	CodeBusy      Code = "busy"       // it is changing its files; try again
	CodeWrongCopy Code = "wrong_copy" // the copy addressed is not, or not any more, the one that is there
	CodeDiverged  Code = "diverged"   // its bytes cannot be made those of the primary without cutting what it knows committed
	CodeBehind    Code = "behind"     // it counts as in sync and yet lacks what is committed; it may catch up as a joining copy
	CodeAhead     Code = "ahead"      // it has more bytes of this very epoch than the Hello says the primary has
	CodeFailed    Code = "failed"     // its log takes no more writes (rule R5)
)

// Message is what two copies of a volume say to each other. Stream names the
// attempt to attach that a message belongs to: the primary makes a new one for
// every Hello, unique among all it ever made.
type Message struct {
	Kind   Kind   `json:"-"`
	Stream uint64 `json:"stream"`

	Entry  volume.Entry        `json:"entry,omitzero"`
	From   volume.Holder       `json:"from,omitzero"`
	To     volume.Holder       `json:"to,omitzero"`
	Epochs []volume.EpochStart `json:"epochs,omitempty"`
	End    int64               `json:"end,omitempty"` // bytes of .dat: of the primary (Hello), or of the follower, all durable (Welcome)

	Checksum uint32 `json:"checksum,omitempty"` // of .dat[0:End)
	Code     Code   `json:"code,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Leaving  bool   `json:"leaving,omitempty"` // this copy is about to be stopped as planned

	Attempt    uint64            `json:"attempt,omitempty"` // at a compaction; counted by the primary within its epoch
	Compaction volume.Compaction `json:"compaction,omitzero"`

	Seq       uint64 `json:"-"` // rises with every Batch; in an Ack the highest one processed
	Offset    int64  `json:"-"` // of Bytes in .dat
	Bytes     []byte `json:"-"` // whole records; none in a barrier, heartbeat or notice
	Committed int64  `json:"committed,omitempty"`
	Durable   int64  `json:"-"` // fsynced by the follower
}

// The binary forms, big-endian: a Batch is kind, stream, seq, offset,
// committed, then Bytes; an Ack is kind, stream, seq, durable. All other kinds
// are the kind followed by JSON.
const (
	batchHeader = 1 + 4*8
	ackLength   = 1 + 3*8
)

// Frame gives the bytes to send as a header and a payload. The payload is
// m.Bytes itself, not a copy.
func (m *Message) Frame() (header, payload []byte) {
	be := binary.BigEndian
	switch m.Kind {
	case KindBatch:
		b := append(make([]byte, 0, batchHeader), byte(m.Kind))
		b = be.AppendUint64(b, m.Stream)
		b = be.AppendUint64(b, m.Seq)
		b = be.AppendUint64(b, uint64(m.Offset))
		return be.AppendUint64(b, uint64(m.Committed)), m.Bytes
	case KindAck:
		b := append(make([]byte, 0, ackLength), byte(m.Kind))
		b = be.AppendUint64(b, m.Stream)
		b = be.AppendUint64(b, m.Seq)
		return be.AppendUint64(b, uint64(m.Durable)), nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("replica: a message is plain data: %v", err))
	}
	return append([]byte{byte(m.Kind)}, text...), nil
}

// Unframe reads what Frame wrote, header and payload joined. b belongs to the
// message from then on. Errors are volume.ErrBadRequest.
func (m *Message) Unframe(b []byte) error {
	bad := func(why string) error {
		return fmt.Errorf("%w: message between copies: %s", volume.ErrBadRequest, why)
	}
	if len(b) == 0 {
		return bad("empty")
	}
	be := binary.BigEndian
	switch kind := Kind(b[0]); kind {
	case KindBatch:
		if len(b) < batchHeader {
			return bad("short batch")
		}
		*m = Message{Kind: kind, Stream: be.Uint64(b[1:]), Seq: be.Uint64(b[9:]),
			Offset: int64(be.Uint64(b[17:])), Committed: int64(be.Uint64(b[25:])), Bytes: b[batchHeader:]}
	case KindAck:
		if len(b) != ackLength {
			return bad("acknowledgement of a wrong length")
		}
		*m = Message{Kind: kind, Stream: be.Uint64(b[1:]), Seq: be.Uint64(b[9:]), Durable: int64(be.Uint64(b[17:]))}
	case KindHello, KindWelcome, KindRefusal, KindCompact, KindFinishCompaction, KindAbortCompaction, KindBuilt, KindReady, KindCompactionFailed, KindLeaving:
		*m = Message{}
		if err := json.Unmarshal(b[1:], m); err != nil {
			return fmt.Errorf("%w: message between copies: %w", volume.ErrBadRequest, err)
		}
		m.Kind = kind
	default:
		return bad(fmt.Sprintf("kind %d", kind))
	}
	if m.Offset < 0 || m.Committed < 0 || m.Durable < 0 || m.End < 0 || m.Compaction.At < 0 {
		return bad("negative offset")
	}
	return nil
}

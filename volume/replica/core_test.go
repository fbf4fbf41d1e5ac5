package replica

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"weedd/volume"
)

var (
	copyA = volume.Holder{Node: "a", Copy: 1}
	copyB = volume.Holder{Node: "b", Copy: 2}
	copyC = volume.Holder{Node: "c", Copy: 3}
)

func list(pairs ...int64) (epochs []volume.EpochStart) {
	for i := 0; i < len(pairs); i += 2 {
		epochs = append(epochs, volume.EpochStart{Epoch: volume.Epoch(pairs[i]), Start: pairs[i+1]})
	}
	return epochs
}

func TestTwoCopiesFindTheirCommonEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mine   []volume.EpochStart
		myEnd  int64
		theirs []volume.EpochStart
		end    int64
		want   int64 // 0: none
	}{
		"the follower is behind in the same epoch":    {list(1, 8), 100, list(1, 8), 200, 100},
		"the follower has a tail of an old epoch":     {list(1, 8), 300, list(1, 8, 2, 200), 400, 200},
		"the follower led an epoch that nobody saw":   {list(1, 8, 2, 100), 150, list(1, 8, 3, 120), 400, 100},
		"equal numbers with other starts do not meet": {list(1, 8, 2, 100), 150, list(1, 8, 2, 120), 400, 100},
		"starts may fall":                 {list(1, 8), 200, list(1, 8, 2, 200, 3, 100), 400, 100},
		"starts may fall in my list, too": {list(1, 8, 2, 200, 3, 100), 150, list(1, 8, 2, 200), 400, 100},
		"nothing in common":               {list(1, 8), 100, list(2, 8), 100, 0},
		"an empty list":                   {nil, 100, list(1, 8), 100, 0},
	} {
		_, end, ok := common(tt.mine, tt.myEnd, tt.theirs, tt.end)
		if ok != (tt.want != 0) || end != tt.want {
			t.Errorf("%s: common end %d, %v; want %d", name, end, ok, tt.want)
		}
	}
	mine, theirs := list(1, 8), list(1, 8, 2, 100)
	theirs[1].Generation = 1
	if _, _, ok := common(mine, 100, theirs, 200); ok {
		t.Error("copies of two generations have nothing in common")
	}
}

// leading makes a Core of copy a that leads {a,b} in epoch 1, c joining, with
// bytes up to 100, of which b has none yet.
func leading(t *testing.T) *Core {
	t.Helper()
	c := NewCore(copyA, 7, CoreState{End: Origin, Durable: Origin})
	c.Learn(volume.Entry{Volume: 7, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: "a", Spec: volume.Spec{Placement: 1},
		InSync: []volume.Holder{copyA, copyB}, Joining: []volume.Holder{copyC}})
	c.Entered(1)
	c.Appended(100)
	c.Synced(100)
	if err := c.Writable(); err != nil {
		t.Fatal(err)
	}
	c.Effects()
	return c
}

func (c *Core) attachTo(h volume.Holder, stream uint64, end int64) {
	c.Hello(h, stream)
	c.Welcomed(h, Message{Kind: KindWelcome, Stream: stream, End: end}, true)
}

func asks(effects []Effect) (kinds []volume.AskKind) {
	for _, e := range effects {
		if a, ok := e.(AskLeader); ok {
			kinds = append(kinds, a.Ask.Kind)
		}
	}
	return kinds
}

func TestACopyThatLostWhatItAcknowledgedLeavesTheSet(t *testing.T) {
	t.Parallel()
	c := leading(t)
	c.attachTo(copyB, 1, 100)
	if c.Committed() != 100 {
		t.Fatalf("committed %d", c.Committed())
	}
	c.attachTo(copyB, 2, 50)
	if got := asks(c.Effects()); !reflect.DeepEqual(got, []volume.AskKind{volume.AskRemove}) {
		t.Errorf("asked %v", got)
	}
}

func TestAJoiningCopyThatLostWhatItHadWhenAskedForIsSettledByANewEpoch(t *testing.T) {
	t.Parallel()
	c := leading(t)
	c.attachTo(copyB, 1, 100)
	c.attachTo(copyC, 2, 100)
	if got := asks(c.Effects()); !reflect.DeepEqual(got, []volume.AskKind{volume.AskAdd}) {
		t.Fatalf("asked %v", got)
	}
	c.attachTo(copyC, 3, 8)
	if got := asks(c.Effects()); !reflect.DeepEqual(got, []volume.AskKind{volume.AskLead}) {
		t.Errorf("asked %v", got)
	}
}

func TestACopyAskedForThatJoinsNoLongerStillCounts(t *testing.T) {
	t.Parallel()
	c := leading(t)
	c.attachTo(copyB, 1, 100)
	c.attachTo(copyC, 2, 100)
	e := c.Entry()
	e.Version, e.Joining = 2, nil
	c.Learn(e)
	c.Appended(200)
	c.Synced(200)
	c.Acked(copyB, Message{Stream: 1, Durable: 200})
	if c.Committed() != 100 {
		t.Errorf("committed %d without the copy that may have been added", c.Committed())
	}
	if got := asks(c.Effects()); !reflect.DeepEqual(got, []volume.AskKind{volume.AskAdd, volume.AskLead}) {
		t.Errorf("asked %v; only a new epoch ends the wait", got)
	}
}

// lastRemove gives the last question of its kind.
func lastRemove(effects []Effect) (a volume.Ask) {
	for _, e := range effects {
		if q, ok := e.(AskLeader); ok && q.Ask.Kind == volume.AskRemove {
			a = q.Ask
		}
	}
	return a
}

func TestCopiesThatDifferAreNamedToBeReplaced(t *testing.T) {
	t.Parallel()
	differs := func(c *Core, h volume.Holder, stream uint64) volume.Ask {
		c.Hello(h, stream)
		c.Welcomed(h, Message{Kind: KindWelcome, Stream: stream, End: 50}, false)
		return lastRemove(c.Effects())
	}
	c := leading(t)
	c.attachTo(copyB, 1, 100)
	c.Effects()
	if a := differs(c, copyC, 2); a.Unfit || len(a.Copies) > 0 || !reflect.DeepEqual(a.Replace, []volume.Holder{copyC}) {
		t.Errorf("a joining copy: %+v", a)
	}
	if a := differs(c, copyB, 3); !a.Unfit || !reflect.DeepEqual(a.Copies, []volume.Holder{copyB}) || !reflect.DeepEqual(a.Replace, []volume.Holder{copyB, copyC}) {
		t.Errorf("and one in sync: %+v", a)
	}
	c = leading(t)
	c.attachTo(copyB, 1, 100)
	c.attachTo(copyB, 2, 50)
	if a := lastRemove(c.Effects()); !a.Unfit || len(a.Replace) > 0 {
		t.Errorf("one that is only behind: %+v", a)
	}
	c = leading(t)
	c.Hello(copyC, 1)
	c.Refused(copyC, Message{Kind: KindRefusal, Stream: 1, Code: CodeWrongCopy})
	if a := lastRemove(c.Effects()); len(a.Replace) > 0 {
		t.Errorf("one that is about to be made: %+v", a)
	}
}

func TestAFollowerPublishesNothingBeforeItsPrimaryHasCompared(t *testing.T) {
	t.Parallel()
	c := follower(100, 8)
	plan, refusal := c.OnHello(hello(2, 100, 200, 90))
	if refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	c.Adopted(plan.Stream, 100)
	if c.Committed() != 8 {
		t.Errorf("committed %d by attaching", c.Committed())
	}
	c.Followed(100, 100, 90)
	if c.Committed() != 90 {
		t.Errorf("committed %d by the first batch", c.Committed())
	}
}

func TestAPrimaryThatLostItsTailFails(t *testing.T) {
	t.Parallel()
	c := leading(t)
	c.Hello(copyB, 1)
	c.Refused(copyB, Message{Kind: KindRefusal, Stream: 1, Code: CodeAhead, End: 100})
	if c.Failure() != nil {
		t.Fatal("a late Hello is no reason")
	}
	c.Hello(copyB, 2)
	c.Refused(copyB, Message{Kind: KindRefusal, Stream: 2, Code: CodeAhead, End: 101})
	if c.Failure() == nil || c.Writable() == nil {
		t.Error("it goes on")
	}
}

// follower makes a Core of copy b that followed epoch 1 up to end.
func follower(end, committed int64) *Core {
	return NewCore(copyB, 7, CoreState{Epochs: list(1, 8), End: end, Durable: end, Committed: committed})
}

func hello(epoch volume.Epoch, start, end, committed int64) Message {
	return Message{Kind: KindHello, Stream: 9, From: copyA, To: copyB, Epochs: list(1, 8, int64(epoch), start), End: end, Committed: committed,
		Entry: volume.Entry{Volume: 7, State: volume.StateOpen, Epoch: epoch, Version: uint64(epoch), Primary: "a", InSync: []volume.Holder{copyA, copyB}}}
}

func TestAFollowerRefuses(t *testing.T) {
	t.Parallel()
	late := hello(1, 8, 50, 8)
	late.Epochs = list(1, 8)
	other := hello(2, 100, 100, 8)
	other.To.Copy = 99
	impostor := hello(2, 100, 100, 8)
	impostor.From = copyC
	for name, tt := range map[string]struct {
		c    *Core
		m    Message
		want Code
	}{
		"to cut below what it knows committed":              {follower(100, 80), hello(2, 60, 60, 8), CodeDiverged},
		"to count as in sync without what is committed":     {follower(100, 8), hello(2, 200, 200, 150), CodeBehind},
		"to cut what came by a later Hello of this epoch":   {follower(100, 8), late, CodeAhead},
		"what is meant for another copy":                    {follower(100, 8), other, CodeWrongCopy},
		"one that does not lead by the entry that it sends": {follower(100, 8), impostor, CodeStale},
	} {
		if _, refusal := tt.c.OnHello(tt.m); refusal == nil || refusal.Code != tt.want {
			t.Errorf("%s: %+v, want %s", name, refusal, tt.want)
		}
	}
	c := follower(100, 8)
	plan, refusal := c.OnHello(hello(2, 60, 60, 8))
	if refusal != nil || plan.Cut != 60 {
		t.Fatalf("cut to %d, %+v; want 60", plan.Cut, refusal)
	}
	if _, refusal := c.OnHello(hello(2, 60, 60, 8)); refusal == nil || refusal.Code != CodeBusy {
		t.Errorf("a Hello while it cuts: %+v", refusal)
	}
}

func TestAnEpochIsEnteredOnlyWhenTheLogIsAtRest(t *testing.T) {
	t.Parallel()
	c := follower(100, 8)
	m := hello(1, 8, 100, 8)
	m.Epochs = list(1, 8)
	if _, refusal := c.OnHello(m); refusal != nil {
		t.Fatal(refusal)
	}
	c.Adopted(9, 100)
	if err := c.OnBatch(Message{Stream: 9, Offset: 100, Bytes: make([]byte, 50)}); err != nil {
		t.Fatal(err)
	}
	c.Effects()
	e := hello(2, 0, 0, 0).Entry
	e.Primary = "b"
	c.Learn(e)
	if got := c.Effects(); !reflect.DeepEqual(got, []Effect{Unfollow{9}}) {
		t.Fatalf("effects %v while a batch is being appended", got)
	}
	c.Followed(150, 150, 8)
	if got := c.Effects(); !reflect.DeepEqual(got, []Effect{EnterEpoch{Epoch: 2, Start: 150}}) {
		t.Fatalf("effects %v", got)
	}
	e.Epoch, e.Version = 3, 3
	c.Learn(e) // overtaken while it enters
	c.Entered(2)
	if got := c.Effects(); c.Leading() || !reflect.DeepEqual(got, []Effect{EnterEpoch{Epoch: 3, Start: 150}}) {
		t.Errorf("leading %v, effects %v", c.Leading(), got)
	}
}

func messages() []Message {
	refusal := Message{Kind: KindRefusal, Stream: 2, Code: CodeStale, Reason: "why", End: 9, Entry: hello(3, 9, 9, 9).Entry}
	return []Message{
		hello(2, 60, 60, 8), refusal,
		{Kind: KindWelcome, Stream: 1 << 63, End: 77, Checksum: 5},
		{Kind: KindBatch, Stream: 1, Seq: 2, Offset: 3, Committed: 4, Bytes: []byte("records")},
		{Kind: KindBatch, Stream: 1, Seq: 2, Offset: 3, Committed: 4, Bytes: []byte{}},
		{Kind: KindAck, Stream: 1, Seq: 2, Durable: 3},
	}
}

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, m := range messages() {
		header, payload := m.Frame()
		if len(payload) > 0 && &payload[0] != &m.Bytes[0] {
			t.Errorf("%s: the payload is a copy", m.Kind)
		}
		var got Message
		if err := got.Unframe(append(header, payload...)); err != nil {
			t.Fatalf("%s: %v", m.Kind, err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s: got %+v, want %+v", m.Kind, got, m)
		}
	}
}

func FuzzUnframe(f *testing.F) {
	for _, m := range messages() {
		header, payload := m.Frame()
		f.Add(append(header, payload...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Message
		if m.Unframe(bytes.Clone(b)) != nil {
			return
		}
		header, payload := m.Frame()
		if err := again.Unframe(append(header, payload...)); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		x, _ := json.Marshal(m)
		y, _ := json.Marshal(again)
		if m.Kind != again.Kind || !bytes.Equal(x, y) || !bytes.Equal(m.Bytes, again.Bytes) || m.Seq != again.Seq || m.Offset != again.Offset || m.Durable != again.Durable {
			t.Fatalf("%+v came back as %+v", m, again)
		}
		c := follower(100, 8)
		c.Learn(hello(1, 8, 8, 8).Entry)
		c.OnHello(m) // whatever it is, it must not bring the copy down
	})
}

func TestACopyThatLeavesIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	c := leading(t)
	c.attachTo(copyB, 1, 100)
	c.attachTo(copyC, 2, 100)
	c.Effects()
	c.Leaving(copyB, Message{Kind: KindLeaving, Stream: 9})
	c.Appended(200)
	if got := asks(c.Effects()); len(got) > 0 {
		t.Errorf("a word by another stream: asked %v", got)
	}
	c.Synced(200)
	c.Acked(copyB, Message{Stream: 1, Durable: 200})
	c.Acked(copyC, Message{Stream: 2, Durable: 200})
	c.Effects()
	c.Leaving(copyB, Message{Kind: KindLeaving, Stream: 1})
	if got := asks(c.Effects()); len(got) > 0 {
		t.Errorf("nothing waits (rule R9), and yet it asked %v", got)
	}
	c.Appended(300)
	if got := lastRemove(c.Effects()).Copies; !reflect.DeepEqual(got, []volume.Holder{copyB}) {
		t.Errorf("asked to remove %v", got)
	}
	c.Acked(copyB, Message{Stream: 1, Durable: 300})
	c.Acked(copyC, Message{Stream: 2, Durable: 300})
	c.Synced(300)
	if c.Committed() != 300 {
		t.Errorf("committed %d: until it is out it counts, and answers", c.Committed())
	}
}

func TestACopyThatLeavesIsNotAdded(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]func(c *Core){
		"by another stream": func(c *Core) { c.attachTo(copyC, 3, 100) },
		"by the same one, whose hello was repeated": func(c *Core) {
			c.Welcomed(copyC, Message{Kind: KindWelcome, Stream: 2, End: 100}, true)
		},
	} {
		c := leading(t)
		c.attachTo(copyB, 1, 100)
		c.Hello(copyC, 2)
		c.Welcomed(copyC, Message{Kind: KindWelcome, Stream: 2, End: 100, Leaving: true}, true)
		if got := asks(c.Effects()); len(got) > 0 {
			t.Errorf("asked %v", got)
		}
		back(c) // it was restarted
		if got := asks(c.Effects()); !reflect.DeepEqual(got, []volume.AskKind{volume.AskAdd}) {
			t.Errorf("met again %s: asked %v", name, got)
		}
	}
}

package placement

import (
	"time"

	"weedd/volume"
)

const (
	// openLeast is how long a volume with a time to live is given new ids, at
	// least, however short that time is.
	openLeast = time.Hour
	// The grace between the end of a volume's time and its own is a tenth of that
	// time, within these bounds: who was given an id while the volume was open may
	// still write.
	graceLeast, graceMost = time.Minute, 10 * time.Minute
	// endAfter is how long an expired volume takes no writes, at least, before it
	// is deleted: what its primary was writing then has been reported by the end.
	endAfter = 5 * time.Second
)

// aging is what the time to live of a volume calls for: another state, or its
// end. It is led there by steps, so that nothing acknowledged is deleted before
// its time: a volume is closed to new ids, then takes no writes in an epoch of
// its own, and is deleted when its primary, in that epoch, reports nothing
// younger than its time to live. One that is empty, or read-only, is left alone.
func (vol *Volume) aging() (next volume.State, end bool, why string) {
	e, ttl := vol.Entry, vol.Entry.Spec.TTL.Duration()
	if ttl == 0 || vol.Idle == 0 {
		return e.State, false, ""
	}
	grace := min(max(ttl/10, graceLeast), graceMost)
	switch {
	case (e.State == volume.StateOpen || e.State == volume.StateNoRoom) && vol.Idle >= ttl:
		return volume.StateFull, false, "everything in it has expired"
	case e.State == volume.StateOpen && vol.Old >= max(ttl, openLeast):
		return volume.StateFull, false, "it has been open for as long as its files live"
	case e.State == volume.StateFull && vol.Idle >= ttl+grace:
		return volume.StateExpired, false, "everything in it has expired"
	case e.State == volume.StateExpired && vol.Idle < ttl:
		return volume.StateFull, false, "it was written while it was to end"
	case e.State == volume.StateExpired && vol.Age >= endAfter && vol.resting():
		return e.State, true, "everything in it has expired"
	}
	return e.State, false, ""
}

// resting reports whether the primary says that it takes no writes by the entry
// that is in force.
func (vol *Volume) resting() bool {
	r := vol.report(vol.Entry.Primary)
	return r != nil && !r.Leads && r.Epoch == vol.Entry.Epoch
}

// age lets the volume into the state that its time to live calls for. Expired is
// an epoch of its own: what its primary reports in it, it reports knowing that it
// takes no writes.
func (d *draft) age() {
	state, _, why := d.vol.aging()
	if state == d.next.State || d.next.State != d.vol.Entry.State {
		return
	}
	d.next.State = state
	d.renew = d.renew || state == volume.StateExpired
	d.because("%s", why)
}

package replica

import (
	"math"

	"weedd/volume"
)

// endOf gives the offset up to which a copy with these epochs and this end has
// the bytes that epochs[i] stands for: up to where any later epoch begins.
//
// Starts need not rise along a list. A follower takes the primary's whole list
// before it has the primary's bytes; if it is made primary then, its own epoch
// begins below the start of the one before. Hence the smallest start of all
// later epochs, not that of the next.
func endOf(epochs []volume.EpochStart, i int, end int64) int64 {
	for _, later := range epochs[i+1:] {
		end = min(end, later.Start)
	}
	return end
}

// common gives the newest epoch that both lists have with equal start, and the
// end up to which both copies hold the same bytes by it (rule R11). Why they
// do: an epoch has one primary, which begins it once, at one start, and never
// writes in it again after a restart; so what two copies hold by the same epoch
// are two prefixes of the one log of its primary.
//
// Epochs of another generation than the newest of mine stand for other files.
func common(mine []volume.EpochStart, myEnd int64, theirs []volume.EpochStart, theirEnd int64) (epoch volume.Epoch, end int64, ok bool) {
	if len(mine) == 0 || len(theirs) == 0 {
		return 0, 0, false
	}
	generation := theirs[len(theirs)-1].Generation
	if mine[len(mine)-1].Generation != generation {
		return 0, 0, false
	}
	i, j := len(mine)-1, len(theirs)-1
	for i >= 0 && j >= 0 {
		switch a, b := mine[i], theirs[j]; {
		case a == b && a.Generation == generation:
			return a.Epoch, min(endOf(mine, i, myEnd), endOf(theirs, j, theirEnd)), true
		case a.Epoch == b.Epoch:
			i, j = i-1, j-1
		case a.Epoch > b.Epoch:
			i--
		default:
			j--
		}
	}
	return 0, 0, false
}

// newest is the newest epoch of a list, 0 for none.
func newest(epochs []volume.EpochStart) volume.Epoch {
	if len(epochs) == 0 {
		return 0
	}
	return epochs[len(epochs)-1].Epoch
}

// plausible reports whether a list received may be one: epochs rise, and no
// start lies before the first record.
func plausible(epochs []volume.EpochStart) bool {
	var last volume.Epoch
	for _, e := range epochs {
		if e.Epoch <= last || e.Start < Origin || e.Start == math.MaxInt64 {
			return false
		}
		last = e.Epoch
	}
	return len(epochs) > 0
}

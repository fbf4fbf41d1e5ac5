// Package simulation runs the masters through crashes, bad disks and bad networks,
// thousands of times, each run decided by one seed and lived in a bubble of fake
// time (testing/synctest).
//
// There is nothing here but tests. What is real: hashicorp/raft behind
// consensus.Group, with its transport, leadership, watchdog and admission of members;
// the catalog, its commands and snapshots; leader.Leader with topology and placement;
// master.Master as far as it gives out ids. What is made up: disks, in which a write
// that the process dies in is there afterwards or not, and which are slow for a while
// or hang; connections that are delayed, cut, one way too, and reset; gossip, which is
// late; and volume servers, which obey, ask and write by the rules of package replica
// in one step.
//
// Troubles: masters and volume servers die, with or without a word, are stopped, lose
// power all at once, freeze, are cut off, alone or in groups; one master comes back
// with an empty disk; the lead is handed over; masters are added, up to five. Clients
// at every master ask for ids, blocks of keys, volumes, what is known of a volume, and
// have collections deleted; some proposals have no reason and some come late.
//
// These must hold at every moment:
//
//   - two entries of one index and term are the same in all logs, and one term of
//     raft has one leader;
//   - all masters apply the same commands in the same order, over restarts and
//     snapshots, and what was answered is among them, for ever;
//   - no block of keys and no file id is given out twice, no volume made twice;
//   - versions and epochs only rise; another primary or set is another epoch; its
//     primary was in sync before; a copy becomes in sync only after joining, and when
//     its primary asks;
//   - a volume can be written at one primary at most, and every copy in sync by the
//     newest decision has all that was acknowledged;
//   - no copy is ordered to be deleted that the newest decision names;
//   - of a volume that somebody was told of no leader says that there is none.
//
// At the end of every run all troubles end, and within 90 s all masters must be
// members, know the same, have one leader, and every volume must take writes.
//
//	go test ./cluster/simulation -sim.seeds 500          500 seeds, in place of 30 s
//	go test ./cluster/simulation -sim.seed 17 -count 20  one seed, again and again
//
// WEEDD_SIM_SEEDS does the same as -sim.seeds. A seed decides on the troubles, the
// delays and raft's timeouts; which of two goroutines comes first that are woken in
// the same moment is up to Go's scheduler, so a rare failure may need some repeats.
// A freeze holds up what a process says, hears and writes, not its timers. cluster/DESIGN.md lists
// which rule was taken out of the code, and what failed.
package simulation

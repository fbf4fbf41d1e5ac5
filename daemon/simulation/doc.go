// Package simulation runs the protocol that keeps the copies of a volume in step
// (package replica) together with the masters' decisions (package catalog)
// through crashes, bad disks and bad networks, thousands of times, each run
// decided by one seed.
//
// There is nothing here but tests. What is real: replica.Core, its messages and
// their binary form, catalog.Apply, its commands and snapshots, what decides that a
// copy may be dropped (placement.Drops, server.Sparing) and what is adopted when
// (placement.Adoptions), and under every copy the store with its files and ledger,
// which also looks through files of SeaweedFS, merges them and makes them ours.
// What is made up as badly as it may be:
// file systems (package faultfs) in which processes die within any operation, with
// the page cache or without, and in which fsyncs fail; a network that delays,
// drops, repeats and reorders, processes that freeze, disks replaced by empty ones,
// masters that lag behind, and a leader that takes the living for dead and whose
// decisions and answers come late or never.
//
// After every event these must hold:
//
//   - the committed bytes of all copies of a volume are the same, and what was
//     acknowledged is among them, for ever;
//   - every copy that is in sync by the newest committed entry has, durably, all
//     that was acknowledged, since each of them may lead next, and a copy claims no
//     more than what is left of it after any crash;
//   - whatever a crash leaves, the store opens it, and sets nothing aside;
//   - no two acknowledgements name the same place;
//   - a read that the primary answers shows the newest acknowledged state of its
//     key, or a newer one: what was deleted stays deleted;
//   - no key is handed out twice;
//   - a copy is dropped only if the newest entry does not name it, and as many others
//     as the placement asks for have what is committed in it;
//   - when a compaction is decided, every copy in sync has the new files durably,
//     and they hold all that was ever committed; what is committed to the old files
//     after that is a failure. Reads are compared by the order in which records
//     were committed, as offsets change.
//
// Some runs begin with volumes that SeaweedFS left on one, two or three nodes, alike or
// not: other files and deletions, two cookies for one key, records out of order, no
// index, a torn end. Such a volume, when it is ours,
//
//   - holds of each key what its origins wrote or deleted last, and nothing else;
//   - has no key that is handed out afterwards;
//   - has taken nothing away: what SeaweedFS wrote is where it was, became ours as it
//     was, or is kept aside.
//
// At the end of every run all faults are mended, and the copies must become
// equal by themselves, and none be left that nobody wants. Every volume of SeaweedFS
// is ours then, or its copies contradict each other: they stand as they were, and the
// reason names the keys.
//
//	go test ./daemon/simulation -sim.seeds 5000          more seeds
//	go test ./daemon/simulation -sim.seed 17 -v          one seed, with its trace on failure
//
// WEEDD_SIM_SEEDS does the same as -sim.seeds. volume/DESIGN.md lists which case
// fails when a rule is taken out of the code.
package simulation

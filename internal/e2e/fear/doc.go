// Package fear backs up, restores, forgets and prunes by many real processes at once, and does to
// them everything that the protocol of garbage (internal/vault/FORMAT.md) allows for: processes are
// paused at any request and killed, hosts are declared dead while they run, lists and looks at
// packs are as old as the protocol admits, and answers of the store get lost. It does so on MinIO
// behind a gate for each process, and on a file store.
//
// A ledger that the test itself keeps knows the content of each backup that a program reported as
// made, and which commands may have forgotten the backup since. The law: a backup that nobody may
// have forgotten, or that is held, or whose time of grace is not over, restores exactly. A watcher
// also looks at the objects themselves several times a second. At the end, one prune alone leaves
// no pack that no manifest names, no session and no announcement.
//
// Each host has a name, a machine id and a boot of its own, so no host can tell whether the
// processes of another one live.
//
// It has no code of its own outside its tests. The plan follows from a seed; the course of a run
// depends on the machine too. Variables of the environment: HOLDFAST_SEED and HOLDFAST_FEAR_TIME
// choose the seed and how long the processes are disturbed on each store ("make soak" sets them),
// HOLDFAST_FEAR_PROGRAM is a program to test in the place of holdfast, and HOLDFAST_FEAR_KEEP a
// folder that keeps the trail of a run.
package fear

// Package year plays a year of a fleet in minutes: hosts back instances up each day, instances
// change, move between hosts and go dormant, rules of retention forget backups, and a prune runs
// each week beside the backups. It reports by month how many bytes the store has and how many of
// them the backups need, requests and dollars, and the times of backups and restores. The same year
// of one instance is played with restic and kopia, where they are on PATH.
//
// The programs are the real ones with another clock (testbed.SkewedClocks). The store is a small
// server in the process of the test, because its times have to follow that clock: holdfast refuses
// to let times decide when the clock of the store differs.
//
// It has no code of its own outside its tests. "make year" plays the year. Without the variables of
// the environment that it sets, the test plays some days of a few instances, and measures nothing.
// The variables: HOLDFAST_YEAR_DAYS, HOLDFAST_YEAR_INSTANCES and HOLDFAST_YEAR_HOSTS are the size,
// HOLDFAST_SEED is the seed, HOLDFAST_YEAR_PEERS=1 plays restic and kopia too, and
// HOLDFAST_YEAR_OUT is a file for the report.
package year

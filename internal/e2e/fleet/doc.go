// Package fleet moves instances between the hosts of a fleet, by the real programs, while faults
// of all kinds happen, and checks the agent's promises all the time: no record that was durable
// when an instance was released is ever missing afterwards, an instance lives on one host at
// most, nothing stays frozen without a sign, and when the faults end, everything comes to rest.
//
// Tablets are instances to which people do worse: they empty volumes, fill slots from templates,
// bring old disks back, run one tablet on two hosts, give a tablet to another tenant, copy a host,
// and set back or lose a state folder. Such an act is an oddity; each happens in every run. A
// ledger of each tablet, which asks no agent, knows every durable record. It finds each record in a
// volume, in a folder of people, in a backup, or in content that an agent kept aside and reported.
// Each fork shows in a report, in the list of the vault and on its host, and holds the release; the
// files of one tenant are in no backup and no restored volume of the other one.
//
// It has no code of its own outside its tests. The plan of the faults follows from a seed;
// the course of a run depends on the machine too. Variables of the environment: HOLDFAST_SEED
// and HOLDFAST_FLEET_TIME choose the seed and how long faults happen ("make soak" sets them),
// HOLDFAST_FLEET_WITHOUT is a pattern of faults and oddities that do not happen ("" for none), and
// HOLDFAST_FLEET_KEEP a folder that keeps the trail of a run and the logs of its agents.
package fleet

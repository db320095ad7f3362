// Package fleet moves instances between the hosts of a fleet, by the real programs, while faults
// of all kinds happen, and checks the agent's promises all the time: no record that was durable
// when an instance was released is ever missing afterwards, an instance lives on one host at
// most, nothing stays frozen without a sign, and when the faults end, everything comes to rest.
//
// It has no code of its own outside its tests. The plan of the faults follows from a seed;
// the course of a run depends on the machine too. Variables of the environment: HOLDFAST_SEED
// and HOLDFAST_FLEET_TIME choose the seed and how long faults happen ("make soak" sets them),
// HOLDFAST_FLEET_WITHOUT is a pattern of faults that do not happen ("" for none), and
// HOLDFAST_FLEET_KEEP a folder that keeps the trail of a run and the logs of its agents.
package fleet

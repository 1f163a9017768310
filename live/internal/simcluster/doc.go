// Package simcluster has a simulated cluster of brokers in memory. It delays, loses, doubles and
// reorders deliveries, forgets, and gives old answers, as a seed says, and it knows the truth. It
// is for tests of what a server makes of that, best in a testing/synctest bubble, where hours take
// milliseconds.
package simcluster

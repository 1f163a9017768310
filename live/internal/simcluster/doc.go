// Package simcluster simulates a cluster of brokers in memory. A seed says what goes wrong in it: it
// delays, loses, doubles and reorders deliveries, forgets publications, and gives old answers. It also
// knows which publications were really made. So a test can check what a server does with all that. In
// a testing/synctest bubble hours take milliseconds.
package simcluster

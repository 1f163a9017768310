// Package natsbroker is a live.Broker on NATS: a server embedded in the process, a
// cluster of such, or one that runs elsewhere.
package natsbroker

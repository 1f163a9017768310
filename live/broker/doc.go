// Package broker has what an author of a broker needs: the interfaces between a
// live.Server and whatever carries its publications to other servers and keeps their
// history. An application does not need it: it makes a broker, and gives it to
// live.Options.
//
// Broker is the least. A broker that keeps history is a Recoverer too, and one that can
// speak to all servers a Bus. For a messaging system with publish and subscribe alone
// live.FromPubSub makes a Broker of three methods. Package brokertest has the suite that
// every Broker must pass.
package broker

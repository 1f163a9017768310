// Package brokertest tests brokers, and what is built on them.
//
// Run is the suite that a live.Broker must pass. Whoever writes a broker calls
// it from a test, with a function that makes one, and says what it can do besides
// delivering:
//
//	func TestBroker(t *testing.T) {
//		brokertest.Run(t, func(t *testing.T) live.Broker {
//			b, err := mybroker.Open("localhost:1234")
//			if err != nil {
//				t.Fatal(err)
//			}
//			return b
//		}, brokertest.Features{History: true})
//	}
//
// Sim is the other way round: a cluster of brokers in memory that delays, loses,
// doubles and reorders, forgets and lies about what it has just stored, all as a
// seed says, and knows the truth. It is for testing what a broker's user makes of
// that, best in a testing/synctest bubble, where hours take milliseconds.
package brokertest

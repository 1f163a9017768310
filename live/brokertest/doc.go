// Package brokertest tests brokers.
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
package brokertest

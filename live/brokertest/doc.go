// Package brokertest tests brokers.
//
// Run is the suite that a live.Broker must pass. The author of a broker calls Run
// from a test, with a function that makes a broker. Features tell what the broker
// can do besides delivering:
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

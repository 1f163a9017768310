package brokertest

import "time"

// BeImpatient shortens patience, for tests of brokers that break a promise.
func BeImpatient() { patience = time.Second }

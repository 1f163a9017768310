package brokertest

import "time"

// BeImpatient shortens the time after which a promise counts as broken.
func BeImpatient() { patience = time.Second }

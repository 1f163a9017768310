package natsbroker

// The subjects of the streams that are not keyed, for tests that look into NATS themselves.

func (b *Broker) storedSubject(tokens string) string {
	return b.opts.Prefix + "." + headStored + "." + tokens
}

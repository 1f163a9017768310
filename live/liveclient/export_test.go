package liveclient

// SetRandom replaces the random numbers, from 0 to 1, of waiting times.
func SetRandom(o *Options, random func() float64) { o.random = random }

// CountWaiting returns how many operations wait for a connection.
func CountWaiting(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// CountAsked returns how many operations wait for an answer.
func CountAsked(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked)
}

// CountQueued returns how many events wait for the callbacks.
func CountQueued(s *Subscription) int {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return len(s.queue)
}

// Unsent returns how many bytes wait to be written.
func Unsent(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.unsent
}

// IsIdle reports whether no callback of a subscription runs, and none is due.
func IsIdle(s *Subscription) bool {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return !s.running
}

package broker

import "errors"

// Errors that a Broker returns, alone or wrapped. Package live has them under the same names.
var (
	// ErrUnavailable says that the messaging system cannot be reached, or cannot decide. A
	// live.v1 client is told to try again later.
	ErrUnavailable = errors.New("live: broker not available")

	// ErrTooLarge says that a publication is larger than the messaging system takes. A
	// live.v1 client that published it is told "too_big".
	ErrTooLarge = errors.New("live: publication is too large for the broker")

	// ErrInvalidTopic says that the messaging system cannot carry a topic of that name.
	ErrInvalidTopic = errors.New("live: invalid topic")

	// ErrInvalidData is wrapped by the error of CheckData.
	ErrInvalidData = errors.New("live: data is not valid JSON")

	// ErrTooManyKeys says that a keyed topic has as many keys as it may have.
	ErrTooManyKeys = errors.New("live: topic has too many keys")

	// ErrServerClosed is returned by all calls after Close.
	ErrServerClosed = errors.New("live: server closed")
)

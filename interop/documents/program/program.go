// Package program has the programs of the pages, in the pages' words. Only what
// they leave out was added: the declarations around them, and answers where a
// client has to know that it was heard.
package program

import "github.com/livetopic/livetopic/interop/documents"

// All are the programs of both pages.
var All = documents.Programs{
	Subscribing:    subscribing,
	SingleSession:  singleSession,
	ChatRoom:       chatRoom,
	Notifications:  notifications,
	RealTime:       realTime,
	PresenceTopics: presenceTopics,
	Background:     background,
	Granularity:    granularity,
	Validation:     validation,
	Consistent:     consistent,

	Lifecycle:        lifecycle,
	SendErrors:       sendErrors,
	Authentication:   authentication,
	AutoSubscribe:    autoSubscribe,
	PresenceTracking: presenceTracking,
	DirectMessaging:  directMessaging,
	RoomManagement:   roomManagement,
	GracefulClose:    gracefulClose,
}

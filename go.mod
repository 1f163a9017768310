module github.com/livetopic/livetopic

go 1.26

require (
	github.com/alexedwards/scs/v2 v2.9.0
	github.com/coder/websocket v1.8.15
)

// npm packages may hold Go code of their own.
ignore ./client/node_modules

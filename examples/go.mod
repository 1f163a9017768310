module github.com/livetopic/livetopic/examples

go 1.26

require (
	github.com/coder/websocket v1.8.15
	github.com/go-mizu/mizu v0.5.26
	github.com/livetopic/livetopic v0.0.0
)

replace github.com/livetopic/livetopic => ../

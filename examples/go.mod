module github.com/livetopic/livetopic/examples

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/go-mizu/mizu v0.5.26
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/livetopic/livetopic v0.1.0
	github.com/livetopic/livetopic/live/natsbroker v0.1.0
	github.com/nats-io/nats-server/v2 v2.15.2
	modernc.org/sqlite v1.50.0
)

require (
	github.com/alexedwards/scs/v2 v2.9.0 // indirect
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/nats-io/nats.go v1.55.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/ncruces/go-strftime v1.0.0 // indirect
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	modernc.org/libc v1.72.0 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.11.0 // indirect
)

replace github.com/livetopic/livetopic => ../

replace github.com/livetopic/livetopic/live/natsbroker => ../live/natsbroker

package natsbroker_test

import (
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// Each Go snippet of docs/scaling.md is repeated here, so that it is compiled.
func TestSnippetsOfScalingCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../../docs/scaling.md"), 5, "go"), "scaling_test.go")
}

func everySnippet() *live.Server {
	b, err := natsbroker.New(natsbroker.Options{ /* as below */ })
	if err != nil {
		log.Fatal(err)
	}
	server := live.New(live.Options{Broker: b})
	return server
}

var (
	_ = everySnippet

	_ = func(server *live.Server) {
		for _, node := range server.Nodes() {
			fmt.Println(node.Name, node.Stats.Sessions, node.Stats.Topics, node.Draining)
		}
	}

	_ = natsbroker.Options{
		StoreDir: "/var/lib/myapp/nats",
		Streams: []natsbroker.StreamConfig{{
			Name:            "CHAT",
			Subjects:        []string{"chat.>"},
			MaxMsgsPerTopic: 1000,
			MaxAge:          30 * 24 * time.Hour,
		}},
	}

	_ = natsbroker.Options{
		StoreDir: "/var/lib/myapp/nats",
		Cluster: &natsbroker.Cluster{
			Listen:   "10.0.0.1:6222",                                             // this node
			Routes:   []string{"10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"}, // the same on all
			Username: "cluster", Password: os.Getenv("CLUSTER_PASSWORD"),
		},
		Streams: []natsbroker.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}}, // on all three
	}

	_ = natsbroker.Options{
		Cluster: &natsbroker.Cluster{
			Listen:   "10.0.1.17:6222",
			Routes:   []string{"10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"}, // those that store
			Username: "cluster", Password: os.Getenv("CLUSTER_PASSWORD"),
			NoStore: true,
		},
	}

	_ = natsbroker.Options{
		Servers: []string{"nats://nats-1:4222", "nats://nats-2:4222", "nats://nats-3:4222"},
		Connect: []nats.Option{nats.UserCredentials("/etc/myapp/nats.creds")},
		Streams: []natsbroker.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}, Replicas: 3}},
	}
)

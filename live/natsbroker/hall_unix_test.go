//go:build unix

package natsbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

// The topics of the guests. The first word says what clients see.
var hallTopics = []string{"visible.1", "visible.2", "counted.1", "private.1"}

func hallRules(topic string) live.TopicOptions {
	seen := map[string]live.Presence{"visible": live.PresenceVisible, "counted": live.PresenceCounted, "private": live.PresencePrivate}
	kind, _, _ := strings.Cut(topic, ".")
	return live.TopicOptions{Presence: seen[kind], PresenceLimit: 10_000}
}

// hallView is what a server shows, as its process tells the test.
type hallView struct {
	Topics map[string]topicView
	Nodes  []string // the name and the sessions of each
}

type topicView struct {
	Count   int
	Members map[string][]string // the infos of each user, sorted
}

// The environment of a child.
const (
	envCluster = "NATSBROKER_TEST_CLUSTER" // its Cluster, as JSON
	envServe   = "NATSBROKER_TEST_SERVE"   // its address for clients and for the test
	envName    = "NATSBROKER_TEST_NAME"
)

// serveHall is the process of one node.
func serveHall(t *testing.T) {
	var cluster Cluster
	if err := json.Unmarshal([]byte(os.Getenv(envCluster)), &cluster); err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Cluster: &cluster, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	server := live.New(live.Options{
		NodeName:    os.Getenv(envName),
		Broker:      b,
		Logger:      quiet(),
		Topics:      hallRules,
		OnAuth:      func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("User"), nil },
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		OnPresence:  func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
	})
	mux := http.NewServeMux()
	mux.Handle("/live", server.Handler())
	mux.HandleFunc("/view", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(viewAll(server)) })
	mux.HandleFunc("/shutdown", func(_ http.ResponseWriter, r *http.Request) { server.Shutdown(r.Context()) })
	ln, err := net.Listen("tcp", os.Getenv(envServe))
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(ln, mux) // ends with the process
	fmt.Println("ready")
	awaitParent()
}

func viewAll(s *live.Server) hallView {
	v := hallView{Topics: make(map[string]topicView)}
	for _, topic := range hallTopics {
		tv := topicView{Count: s.PresenceCount(topic), Members: make(map[string][]string)}
		for _, m := range s.Presence(topic) {
			infos := []string{}
			for _, session := range m.Sessions {
				infos = append(infos, infoText(session.Info))
			}
			slices.Sort(infos)
			tv.Members[m.UserID] = infos
		}
		v.Topics[topic] = tv
	}
	for _, n := range s.Nodes() {
		v.Nodes = append(v.Nodes, fmt.Sprint(n.Name, ": ", n.Stats.Sessions))
	}
	return v
}

func infoText(info json.RawMessage) string {
	if info == nil {
		return "null"
	}
	return string(info)
}

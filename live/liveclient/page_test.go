package liveclient_test

import (
	"context"
	"fmt"
	"log"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live/liveclient"
)

// Every Go snippet of docs/go-client.md is also in this file, where it is compiled.
func TestSnippetsOfThePageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../../docs/go-client.md"), 5, "go"), "page_test.go")
}

var _ = func(ctx context.Context) error {
	client, err := liveclient.Connect(ctx, "wss://example.com/live", liveclient.Options{})
	if err != nil {
		return err
	}
	defer client.Close()

	type item struct {
		Text string `json:"text"`
	}
	_, err = liveclient.Subscribe(client, "news", func(i item, m liveclient.Message) {
		fmt.Println(i.Text)
	})
	if err != nil {
		return err
	}
	at, err := client.Publish(ctx, "news", item{"hello"})
	log.Println(at)
	return err
}

var _ = func(ctx context.Context, client *liveclient.Client, sub *liveclient.Subscription) error {
	select {
	case <-ctx.Done(): // Ctrl-C
		return nil
	case <-sub.Done(): // the server has refused the subscription
		return sub.Err()
	case <-client.Done(): // the server has ended the client for good
		return client.Err()
	}
}

var _ = func(login func(context.Context) (string, error)) liveclient.Options {
	opts := liveclient.Options{
		Token: func(ctx context.Context) (string, error) { return login(ctx) }, // for each attempt to connect
		OnStatus: func(s liveclient.Status) {
			log.Println(s.State, s.Err, s.RetryIn)
		},
	}
	return opts
}

var _ = func(ctx context.Context, client *liveclient.Client, lastSaved string, save func([]byte, string)) error {
	sub, err := client.Subscribe("orders", func(m liveclient.Message) {
		save(m.Data, m.At) // together, in one transaction
	}, liveclient.Since(lastSaved), liveclient.Last(100), liveclient.OnGap(func(g liveclient.Gap) {
		log.Println("messages are missing:", g.Reason)
	}))
	if err != nil {
		return err
	}
	if err := sub.Wait(ctx); err != nil { // until the server has accepted it, or refused
		return err
	}
	return nil
}

var _ = func(ctx context.Context, client *liveclient.Client, order struct{ ID string }) {
	_, err := client.Publish(ctx, "orders", order, liveclient.ID(order.ID))
	switch {
	case err == nil:
		// it is stored
	case liveclient.Code(err) != "":
		// the server has refused it: "forbidden", for example
	case liveclient.Sent(err):
		// it may be stored: publish it again with the same ID
	default:
		// it was not stored, and never will be
	}
}

var _ = func(client *liveclient.Client) {
	sub, err := client.Subscribe("room", nil,
		liveclient.Info(map[string]string{"name": "bot"}), // or liveclient.Unseen()
		liveclient.OnJoin(func(m liveclient.Member) { fmt.Println(m.ID, "is here") }),
		liveclient.OnLeave(func(m liveclient.Member) { fmt.Println(m.ID, "has gone") }),
	)
	log.Println(sub, err)
}

// Package interop holds tests of package live with what others have written:
// WebSocket clients, middlewares, proxies, database drivers, OpenTelemetry, and the programs of
// mizu's documentation. They are in a module of their own, so that live depends on
// none of it. Tests that need nobody else's software are beside what they test.
package interop

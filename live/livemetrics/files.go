package livemetrics

import _ "embed"

//go:embed dashboard.json
var dashboard string

//go:embed alerts.yml
var alerts string

// Dashboard returns a dashboard of Grafana, version 10 or later, as JSON. When it is imported, it asks for a
// data source of the type Prometheus.
func Dashboard() string { return dashboard }

// Alerts returns alerting rules as a rule file of Prometheus, in YAML. Their thresholds fit most
// applications. Copy the file, and change those that do not fit yours.
func Alerts() string { return alerts }

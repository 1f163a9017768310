# The targets are this project's vocabulary; `make help` prints them.

GO       ?= go
CHROMIUM ?= /usr/bin/chromium
FIREFOX  ?= /usr/bin/firefox-esr
export CHROMIUM FIREFOX
PROXIES  := /usr/sbin/nginx /usr/sbin/apache2 /usr/sbin/haproxy /usr/bin/caddy
PROMETHEUS := /usr/bin/prometheus
PROGRAMS := /usr/bin/python3 /usr/bin/curl

# The packages of all modules of the workspace. Those whose tests take the longest are the first.
PACKAGES := ./live/natsbroker/... ./live/livemetrics/... ./live/livetrace/... ./live/... ./interop/... ./... ./examples/... ./bench/... ./release/...

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster test test-go test-sim test-js test-browser lint vuln film release-check release soak fuzz cover bench bench-quick bench-nats deps clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

ADDR ?= localhost:8080

# The program is built first, because Ctrl-C makes "go run" fail even if the program ends in order.
demo: ## run the examples, and the page that leads to them, on http://localhost:8080, or on ADDR
	@$(GO) build -o bin/demo ./examples/demo
	@bin/demo -addr $(ADDR)

demo-cluster: ## run three chats that are one, behind http://localhost:8080, or behind ADDR
	@$(GO) build -o bin/chat ./examples/chat
	@bin/chat -demo-cluster -addr $(ADDR)

# Two targets run at a time, since many tests mostly wait. What a target prints comes when it ends, if make can do that.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
test: deps ## everything: Go with -race, lint, modules, JavaScript, browsers
	@$(MAKE) --no-print-directory -j2 $(SYNC) test-go lint release-check test-sim test-js test-browser

# One package more at a time than there are processors: the broker's tests mostly wait for elections.
test-go: ## the Go tests of every module, with the race detector
	$(GO) test -race -timeout 15m -p $$(($$(getconf _NPROCESSORS_ONLN) + 1)) $(PACKAGES)

test-sim: ## 3,000 simulated clusters with faults, without the race detector
	$(GO) test -timeout 5m -run "TestNothingIsLostInSilence|TestEveryViewIsTrue" ./live/internal/simcluster ./live/internal/presence

test-js: deps ## the JavaScript client's tests, and its size
	cd client && npm test && npm run size

test-browser: deps ## the chat, and what breaks clients, in headless Chromium and Firefox
	cd client && npm run test:browser && npm run test:firefox

lint: deps ## gofmt, go vet (on three systems and with 32 bits), staticcheck, eslint, tsc
	@out=$$(gofmt -l *.go cmd live internal client examples interop bench release); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet $(PACKAGES)
	GOOS=darwin $(GO) vet ./live/... ./internal/... ./live/natsbroker/...
	GOOS=windows $(GO) vet ./live/... ./internal/... ./live/natsbroker/...
	GOARCH=386 $(GO) build ./live/...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 $(PACKAGES)
	cd client && npm run lint

# Each module is checked alone, with the versions that its own go.mod requires: users get those, and not the
# newer ones that go.work may choose. Known faults are in a database, by default that of the Go project.
VULNDB ?= https://vuln.go.dev
vuln: ## govulncheck: known faults in what each module uses; needs https://vuln.go.dev, or a copy in VULNDB
	@dirs=$$($(GO) list -m -f '{{.Dir}}') && for dir in $$dirs; do \
		echo "govulncheck in $$dir"; \
		GOWORK=off $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -db $(VULNDB) -C $$dir ./... || \
			{ echo "make vuln failed: see above. If $(VULNDB) cannot be reached, name a copy of it: make vuln VULNDB=file:///folder"; exit 1; }; \
	done

film: deps ## film the chat for the README: writes docs/killed.png
	cd client && node scripts/film.mjs

release-check: ## build and run programs outside the repository with the modules as they would be released
	$(GO) run ./release check

release: ## set VERSION (vX.Y.Z) in all files, check, and print the commands that commit, tag and push
	$(GO) run ./release prepare $(VERSION)

SOAK ?= 10m
soak: ## clients that come, are cut, flood and leave in all ways, for SOAK (10m); thousands at once; a slow one; the inspector beside them; 50,000 simulated clusters; a rollout; presence
	$(GO) test -race -tags soak -timeout 0 -run 'TestSoak$$|Thousand|OnLinesThatAreCut|SlowClientDelays' -v ./live -soak $(SOAK) -cut.clients 1000
	$(GO) test -tags soak -timeout 0 -run 'Thousand' -v ./live/inspector
	$(GO) test -timeout 0 -run 'TestNothingIsLostInSilence|TestEveryViewIsTrue' -v ./live/internal/simcluster -sim.seeds 50000 -sim.views 5000
	cd live/natsbroker && $(GO) test -timeout 0 -run 'TestRollout$$' -v . -rollout.clients 5000 -rollout.late 2s
	cd live/natsbroker && $(GO) test -timeout 0 -run 'TestPresenceOverProcesses$$' -v . -guests 500 -guests.time 2m

FUZZTIME ?= 30s
fuzz: ## fuzz every decoder, FUZZTIME (30s) each
	@grep -rH --include='*_test.go' '^func Fuzz' live bench internal | sed -E 's|(.*)/[^/]*:func (Fuzz[A-Za-z0-9]*).*|\1 \2|' | while read dir name; do \
		echo "$$name in $$dir"; (cd $$dir && $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .) || exit 1; \
	done

cover: ## coverage of the root module, as a page in cover.html
	$(GO) test -coverpkg ./... -coverprofile cover.out ./...
	$(GO) tool cover -func cover.out | tail -n 1
	$(GO) tool cover -html cover.out -o cover.html

bench: ## this library beside its peers; writes bench/RESULTS.md (half an hour)
	$(GO) run ./bench

bench-quick: ## the same in brief, on the screen only (3 minutes)
	$(GO) run ./bench -quick

NATSBENCH = $(GO) test -run '^$$' -cpu 2
bench-nats: ## what NATS costs; writes bench/NATS.txt (2 minutes)
	cd live/natsbroker && { \
		$(NATSBENCH) -bench '^Benchmark(Publish|Topic)$$' . && \
		$(NATSBENCH) -bench 'StartAndClose' -benchtime 50x . && \
		$(NATSBENCH) -bench 'LeaderLost' -benchtime 10x . && \
		$(NATSBENCH) -bench 'ColdTopic' -benchtime 100x . ; } > ../../bench/NATS.txt
	@cat bench/NATS.txt

# What the tests need besides Go: Node's packages, by lockfile, and Debian's Chromium, Firefox, proxies, Prometheus, Python and curl.
deps: client/node_modules/.package-lock.json $(CHROMIUM) $(FIREFOX) $(PROXIES) $(PROMETHEUS) $(PROGRAMS)

client/node_modules/.package-lock.json: client/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: installing Debian's nodejs and npm"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq nodejs npm; }
	cd client && npm ci --no-audit --no-fund
	@touch $@

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
$(CHROMIUM): PACKAGE := chromium
$(FIREFOX): PACKAGE := firefox-esr
/usr/sbin/nginx: PACKAGE := nginx
/usr/sbin/apache2: PACKAGE := apache2-bin
/usr/sbin/haproxy: PACKAGE := haproxy
/usr/bin/caddy: PACKAGE := caddy
$(PROMETHEUS): PACKAGE := prometheus
/usr/bin/python3: PACKAGE := python3
/usr/bin/curl: PACKAGE := curl
$(CHROMIUM) $(FIREFOX) $(PROXIES) $(PROMETHEUS) $(PROGRAMS):
	@echo "$@ is missing: installing Debian's $(PACKAGE)"
	$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $(PACKAGE)

clean: ## remove what the targets made
	rm -rf bin cover.out cover.html client/node_modules

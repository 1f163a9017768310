# The targets are this project's vocabulary; `make help` prints them.

GO       ?= go
CHROMIUM ?= /usr/bin/chromium
FIREFOX  ?= /usr/bin/firefox-esr
export CHROMIUM FIREFOX
PROXIES  := /usr/sbin/nginx /usr/sbin/apache2 /usr/sbin/haproxy /usr/bin/caddy

# The modules of the workspace, each with its own go.mod.
MODULES := . live/natsbroker interop examples bench release

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster test test-go test-sim test-js test-browser lint release-check release soak fuzz cover bench bench-quick bench-nats deps clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The chat is built first, because Ctrl-C makes "go run" fail even if the program ends in order.
demo: ## run the chat on http://localhost:8080
	@$(GO) build -o bin/chat ./examples/chat
	@bin/chat

demo-cluster: ## run three chats that are one, on ports 8080 to 8082
	@$(GO) build -o bin/chat ./examples/chat
	@bin/chat -demo-cluster

test: deps lint release-check test-go test-sim test-js test-browser ## everything: lint, modules, Go with -race, JavaScript, browsers

# The broker's tests mostly wait for elections, so they run beside the others.
test-go: ## the Go tests of every module, with the race detector
	@mkdir -p bin; (cd live/natsbroker && $(GO) test -race -timeout 15m ./...) > bin/natsbroker.log 2>&1 & nats=$$!; \
	failed=0; for m in $(filter-out live/natsbroker,$(MODULES)); do \
		echo "go test -race $$m"; (cd $$m && $(GO) test -race -timeout 15m ./...) || failed=1; \
	done; \
	echo "go test -race live/natsbroker"; wait $$nats || failed=1; cat bin/natsbroker.log; exit $$failed

test-sim: ## 10,000 simulated clusters with faults, without the race detector
	$(GO) test -timeout 5m -run "TestNothingIsLostInSilence|TestEveryViewIsTrue" ./live/internal/simcluster ./live/internal/presence

test-js: deps ## the JavaScript client's tests, and its size
	cd client && npm test && npm run size

test-browser: deps ## the chat, and what breaks clients, in headless Chromium and Firefox
	cd client && npm run test:browser && npm run test:firefox

lint: deps ## gofmt, go vet (on three systems and with 32 bits), staticcheck, eslint, tsc
	@out=$$(gofmt -l *.go live internal client examples interop bench release); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	@set -e; for m in $(MODULES); do echo "go vet $$m"; (cd $$m && $(GO) vet ./...); done
	@set -e; for os in darwin windows; do echo "go vet, $$os"; GOOS=$$os $(GO) vet ./live/... ./internal/...; (cd live/natsbroker && GOOS=$$os $(GO) vet ./...); done
	GOARCH=386 $(GO) build ./live/...
	@set -e; for m in $(MODULES); do echo "staticcheck $$m"; (cd $$m && $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...); done
	cd client && npm run lint

release-check: ## build and run programs outside the repository with the modules as they would be released
	$(GO) run ./release check

release: ## set VERSION (vX.Y.Z) in all files, check, and print the commands that commit, tag and push
	$(GO) run ./release prepare $(VERSION)

SOAK ?= 10m
soak: ## clients that come, are cut, flood and leave in all ways, for SOAK (10m); thousands at once; a slow one; a rollout; presence
	$(GO) test -race -tags soak -timeout 0 -run 'TestSoak$$|Thousand|SlowClientDelays' -v ./live -soak $(SOAK)
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

# What the tests need besides Go: Node's packages, by lockfile, and Debian's Chromium, Firefox and proxies.
deps: client/node_modules/.package-lock.json $(CHROMIUM) $(FIREFOX) $(PROXIES)

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
$(CHROMIUM) $(FIREFOX) $(PROXIES):
	@echo "$@ is missing: installing Debian's $(PACKAGE)"
	$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $(PACKAGE)

clean: ## remove what the targets made
	rm -rf bin cover.out cover.html client/node_modules

# The two commands that matter: make run, make test. Plain make and sh; make help lists the rest.

GOLANGCI    = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME    = 10s

.DEFAULT_GOAL := help
.PHONY: help build run test test-browser test-security test-chaos soak lint vuln fuzz bench bench-systemprocs bench-streams bench-steady compose-check postgres postgres-for-test browser-for-test webdis

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

build: ## build bin/server
	@go build -o bin/server ./cmd/server

# No flags: PIPEPROC_… variables configure it. exec, so that signals reach the server itself.
run: build postgres ## build and run the server in the foreground, data in ./pipeproc_data
	@exec bin/server

test: build postgres-for-test ## run all tests, with the race detector
	@go test -race -timeout 6m ./...

# CHROMIUM names another program than Debian's: make test-browser CHROMIUM=google-chrome
export CHROMIUM ?= chromium
PLAYWRIGHT = e2e/testdata/browser/node_modules/.package-lock.json
test-browser: build postgres-for-test $(PLAYWRIGHT) ## run the tests of streams in a real browser, Chromium, without a window
	@go test -race -tags browser -run '^TestBrowser$$' -count=1 -timeout 5m ./e2e

# Many attacks take time and little else, so more of them go on at once than there are processors.
test-security: build postgres-for-test ## attack a server, and see that it is not impressed (about 2 minutes)
	@go test -tags security -count=1 -parallel 6 -timeout 10m ./e2e/security

# CHAOS_SEED=n plays the schedule of faults of an earlier run. No race detector: it would take the machine from the load.
CHAOS = go test -tags faults -count=1 -run '^TestChaos$$' -v ./e2e/chaos
test-chaos: build postgres-for-test ## break servers, PostgreSQL and network under load, and check what clients saw (9 minutes or more)
	@go test -tags faults -count=1 -timeout 20m ./api/fault ./e2e/planted
	@$(CHAOS) -timeout 30m -duration 7m30s

# What grows is told by the medians of SOAK's columns: at least nine samples, so a minute or more.
DURATION = 1h
SOAK     = soak.csv
soak: build postgres-for-test ## the same for DURATION (1h), with memory and tables recorded into SOAK (soak.csv) and held flat
	@$(CHAOS) -timeout 0 -duration $(DURATION) -soak "$(abspath $(SOAK))"

lint: ## check format and style
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not formatted (gofmt -w):" $$bad >&2; exit 1; }
	@go vet -tags browser,faults,security ./...
	@go run $(GOLANGCI) run

# govulncheck exits with 3 for a finding. It is installed, not run by go run, which would hide that code.
vuln: ## look for known vulnerabilities, where their database can be reached
	@GOBIN="$(CURDIR)/bin" go install $(GOVULNCHECK)
	@if out=$$(bin/govulncheck ./... 2>&1); then echo "$$out"; else code=$$?; echo "$$out"; \
	if [ $$code -eq 1 ] && echo "$$out" | grep -q 'fetching vulnerabilities'; then \
		echo "the database of vulnerabilities cannot be reached from here: nothing was checked"; \
	else exit $$code; fi; fi

fuzz: ## run every fuzz target for FUZZTIME (10s)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

# ARGS are flags of the bench: make bench ARGS='-only commits -profile bin/profiles'
bench: build postgres webdis ## measure speed against the bars and this machine's limits (about 15 minutes)
	@go run ./bench $(ARGS) speed

bench-systemprocs: build postgres ## measure systemProcs against their bars (about 3 minutes)
	@go run ./bench systemprocs

bench-streams: build postgres ## measure the streams against their bars (about 6 minutes)
	@go run ./bench streams

bench-steady: build postgres ## see whether GC keeps the log's size level at 10,000 commits/s (half an hour)
	@go run ./bench $(ARGS) steady

compose-check: ## check docker-compose.yml (needs docker compose)
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; \
	elif command -v docker-compose >/dev/null; then docker-compose config --quiet; \
	else echo "neither docker compose nor docker-compose is here" >&2; exit 1; fi

# What running needs: a PostgreSQL, unless a database URL is given.
postgres: build
	@$(call need_postgres,)

# What testing needs: PostgreSQL's binaries in any case, since the private one is tested too, and a C compiler for -race.
postgres-for-test: build
	@$(call need_postgres,--database-url= --memory=false)
	@command -v "$$(go env CC)" >/dev/null || sh scripts/install gcc libc6-dev
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || sh scripts/install pgbouncer \
	|| echo "without pgbouncer: what goes through it is not tested" >&2

# playwright-core, which drives the browser. Debian 12 has Node.js 18; from 1.62 on it needs 20. The file is npm's last.
$(PLAYWRIGHT): e2e/testdata/browser/package-lock.json | browser-for-test
	@cd e2e/testdata/browser && npm ci

browser-for-test:
	@command -v "$(CHROMIUM)" >/dev/null || [ "$(CHROMIUM)" != chromium ] || sh scripts/install chromium
	@{ command -v node && command -v npm; } >/dev/null || sh scripts/install nodejs npm
	@v=$$(node --version) && v=$${v#v} && [ "$${v%%.*}" -ge 18 ] || { echo "Node.js $$v is too old: 18 or newer is needed" >&2; exit 1; }

# What commits are compared with; the bench starts it itself, and does without where it cannot be had.
webdis:
	@{ command -v redis-server && command -v webdis; } >/dev/null || sh scripts/install redis-server webdis \
	|| echo "without webdis: nothing is measured beside it" >&2

# need_postgres FLAGS: postgres-check exits with 1 when no binaries are found, with 2 when it is asked wrongly.
define need_postgres
why=$$(bin/server postgres-check $(1) 2>&1) || { code=$$?; echo "$$why" >&2; \
[ $$code -eq 1 ] && [ -z "$$PIPEPROC_POSTGRES_BIN" ] && sh scripts/install postgresql && bin/server postgres-check $(1); }
endef

# weedd. `make` lists the targets.

GO          ?= go
VERSION     ?= $(shell packaging/version)
CONFIG      ?= configs/one-node.toml
FUZZTIME    ?= 30s
FUZZERS     ?= 2
CHAOSTIME   ?= 60s
FAULTTIME   ?= 30s
SOAKTIME    ?= 10m
ARCHES      ?= amd64 arm64
STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.7.0
NFPM         = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.41.1
COMPILE      = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# Writes what the playbooks give to the hosts of the inventory into a directory, to be named.
HOST_CONFIGS = ansible-playbook -i ansible/inventory/hosts.yml ansible/configs.yml -e weedd_configs

# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help run build test check generate packages check-packages e2e e2e-hosts host-faults check-ansible chaos faults repair-load soak bench fuzz clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: build ## build and start one node on loopback, data in ./data
	./weedd run --hints --config $(CONFIG)

build: ## build ./weedd, one static binary
	$(COMPILE) -o weedd ./daemon/weedd

test: ## run the tests, with the race detector where there is a C compiler
ifeq ($(RACE),)
	@echo 'no C compiler: testing without the race detector' >&2
	$(GO) test -timeout 5m ./...
else
	CGO_ENABLED=1 $(GO) test $(RACE) -timeout 5m ./...
	$(GO) test -count 1 -timeout 5m -run TestSeeds ./daemon/simulation
endif

check: build ## gofmt, vet, staticcheck, build, generated files up to date
	@files="$$(gofmt -l .)"; if [ -n "$$files" ]; then echo "not formatted (gofmt -w):" >&2; echo "$$files" >&2; exit 1; fi
	$(GO) vet -tags e2e ./...
	$(GO) run $(STATICCHECK) -tags e2e ./...
	@./weedd config default | cmp - configs/default.toml || { echo 'configs/default.toml is out of date: make generate' >&2; exit 1; }

generate: build ## write the generated files anew (in configs/)
	./weedd config default > configs/default.toml
	@if command -v ansible-playbook >/dev/null; then $(HOST_CONFIGS)=$(CURDIR)/configs; \
		else echo 'ansible-playbook is not installed: configs/host-*.toml are left as they are' >&2; fi

# All times in the packages are that of the last commit, so that they come out the same again.
packages: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct)
packages: ## build dist/*.deb and dist/*.rpm for ARCHES (amd64 arm64)
	rm -rf dist
	mkdir -p dist/build
	$(GO) run -tags docs ./daemon/weedd dist/build
	packaging/licences > dist/build/licences
	packaging/changelog '$(VERSION)' > dist/build/changelog
	gzip -9n dist/build/licences dist/build/changelog dist/build/man/*
	@set -e; for arch in $(ARCHES); do \
		GOOS=linux GOARCH=$$arch $(COMPILE) -o dist/build/weedd-$$arch ./daemon/weedd; \
		for format in deb rpm; do \
			ARCH=$$arch VERSION='$(VERSION)' $(GO) run $(NFPM) package --config packaging/nfpm.yaml --packager $$format --target dist/; \
		done; \
	done

check-packages: packages ## check units, packages and what they do to a host; needs systemd, lintian, rpm
	NFPM=$(NFPM) packaging/check

# hashicorp/raft v1.8.0 reads the id of a member without its lock while its address
# changes: harmless, and yet a race. So that test runs here, without the detector.
e2e: ## test the built program: three processes, kill -9, all of Go's source as input
	$(GO) test -count 1 -run TestAllMastersGetOtherAddresses ./daemon/daemontest/
	$(GO) test -tags e2e -timeout 15m -count 1 -run TestE2E ./daemon/weedd/

check-ansible: ## lint playbooks and scripts; configs/ is what the playbooks give to the hosts
	cd ansible && yamllint --strict . && ansible-lint --offline -p
	cd ansible && for playbook in *.yml; do [ $$playbook = galaxy.yml ] || ansible-playbook --syntax-check $$playbook >/dev/null || exit 1; done
	shellcheck ansible/lab/lab ansible/lab/e2e
	@dir=$$(mktemp -d) && trap 'rm -rf $$dir' EXIT && $(HOST_CONFIGS)=$$dir >/dev/null && for file in $$dir/*; do \
		cmp $$file configs/$${file##*/} || { echo 'configs/ is out of date: make generate' >&2; exit 1; }; done && \
		$(HOST_CONFIGS)=$$dir -e '{"weedd_settings": {"access": {"allow": ["10.0.0.0/8"]}}}' >/dev/null && \
		grep -q '^allow = \["10.0.0.0/8"\]$$' $$dir/host-*.toml || { echo 'a section of weedd_settings is not in the file' >&2; exit 1; }

e2e-hosts: ## try the playbooks on three systemd hosts made on this machine (ansible/lab); needs root
	ansible/lab/e2e

host-faults: ## what each fault of a host costs clients at the others, each for FAULTTIME (30s); needs root
	HOSTS_FAULT_TIME=$(FAULTTIME) ansible/lab/e2e -test.run 'TestHosts/(a_first|faults|one_host|all_hosts)'

chaos: ## random faults in a cluster of three under load, for CHAOSTIME (60s)
	WEEDD_CHAOS_TIME=$(CHAOSTIME) $(GO) test -race -v -count 1 -timeout 30m -run TestChaos ./daemon/daemontest/

faults: ## what each fault of a process costs clients at the others, each for FAULTTIME (30s)
	E2E_FAULT_TIME=$(FAULTTIME) $(GO) test -tags e2e -v -timeout 30m -count 1 -run TestE2E/no_fault ./daemon/weedd/

repair-load: ## what clients notice of copies that are made under load
	$(GO) test -tags e2e -v -timeout 10m -count 1 -run TestE2E/copies ./daemon/weedd/

# Both at once, from a seed that no run before had.
soak: ## simulated copies and masters, with other seeds each time, for SOAKTIME (10m)
	$(GO) test -v -count 1 -timeout 0 -run TestSeeds ./daemon/simulation ./cluster/simulation -sim.for $(SOAKTIME) -sim.base $$(date +%s)000

bench: build ## measure against a bare HTTP server, in turns
	$(GO) run ./volume/volumehttp/benchhttp -weedd ./weedd

# Before Go 1.27 a fuzz test that found nothing may end with "context deadline
# exceeded" (go.dev/issue/75804). One that found something says where the input is.
fuzz: ## fuzz every target for FUZZTIME (30s), FUZZERS (2) at once
	@for package in $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do \
		$(GO) test -list '^Fuzz' $$package | grep '^Fuzz' | sed "s|^|$$package |"; \
	done | xargs -P $(FUZZERS) -L 1 sh -c 'log=$$(mktemp) && trap "rm -f $$log" EXIT; \
		if $(GO) test -run "^$$" -fuzz "^$$1$$" -fuzztime $(FUZZTIME) -parallel 1 $$0 >$$log 2>&1 || \
			{ grep -q "context deadline exceeded" $$log && ! grep -q "Failing input" $$log; }; \
		then echo "ok $$0 $$1: $$(grep -c . $$log) lines"; else echo "FAILED $$0 $$1"; cat $$log; exit 1; fi'

clean: ## remove what was built; ./data is left alone
	rm -rf weedd dist

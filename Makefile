# make help says what there is.

GO       ?= go
PREFIX   ?= /usr
DESTDIR  ?=
FUZZTIME ?= 1m
FUZZ_SECONDS ?= 110
BENCHN   ?= 20

HOSTARCH := $(shell $(GO) env GOHOSTARCH)
GOARCH   ?= $(HOSTARCH)
BIN      := bin$(if $(filter-out $(HOSTARCH),$(GOARCH)),/linux-$(GOARCH))
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || cat VERSION 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

MODULE      := github.com/cageforge/containerd-shim-nexcage
# Static and stripped: a container starts this program twice, and each
# megabyte of it costs. no_grpc leaves out what only ttrpc's rival needs.
SHIM_TAGS   := -tags no_grpc
SHIM_FLAGS  := $(SHIM_TAGS) -ldflags '-s -w -X $(MODULE)/shim.Version=$(VERSION) -X $(MODULE)/shim.Revision=$(REVISION)'
# containerd's own shim, as its releases are built: what we are measured with.
RUNC_FLAGS  := -tags no_grpc -ldflags '-s -w'

include cmd/nexcage-init/flags.mk
HELPER_SRC   := $(wildcard cmd/nexcage-init/*.c)
HELPER_DEPS  := $(HELPER_SRC) $(wildcard cmd/nexcage-init/*.h) cmd/nexcage-init/flags.mk
HELPER_CC_amd64 := $(if $(filter amd64,$(HOSTARCH)),gcc,x86_64-linux-gnu-gcc)
HELPER_CC_arm64 := $(if $(filter arm64,$(HOSTARCH)),gcc,aarch64-linux-gnu-gcc)
HELPER_CC    ?= $(HELPER_CC_$(GOARCH))

PACKAGES := lxc crun busybox-static procps linux-libc-dev libseccomp-dev
VM_PACKAGES := qemu-system-x86 mmdebstrap e2fsprogs

# The same flags everywhere: then all of it shares one build cache.
export CGO_ENABLED := 0
export GOFLAGS     := $(shell $(GO) env GOFLAGS) -trimpath -buildvcs=false
export NEXCAGE_BIN := $(CURDIR)/bin

.PHONY: help setup build shim tools test unit integration race demo bench lint fuzz fuzz-short install deb clean
.DELETE_ON_ERROR:

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call install,PACKAGES): those that are missing.
define install
	@missing=$$(for p in $(1); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi
endef

setup: ## install the packages that tests and demo need (Debian), if they are missing
	$(call install,$(PACKAGES))

build: shim $(BIN)/nexcage-init ## the shim and its helper, into bin/ (GOARCH=arm64: bin/linux-arm64/)

shim:
	GOOS=linux GOARCH=$(GOARCH) $(GO) build $(SHIM_FLAGS) -o $(BIN)/ ./cmd/containerd-shim-nexcage-v2

$(BIN)/nexcage-init: $(HELPER_DEPS)
	@mkdir -p $(@D)
	$(HELPER_CC) $(HELPER_CFLAGS) $(HELPER_LDFLAGS) -o $@ $(HELPER_SRC)

tools: tools-2.4 tools-1.7 tools-1.6 bin/tools/observe standin ## containerd 2.4, 1.7 and 1.6, and what tests need, into bin/tools/

standin: ## pct, pvesh and pveversion for machines without Proxmox, into bin/
	$(GO) -C integration build -ldflags '-s -w' -o $(CURDIR)/bin/pve-standin ./cmd/pve-standin

.PHONY: tools-2.4 tools-1.7 tools-1.6 standin
TOOLS := containerd ctr containerd-shim-runc-v2

tools-2.4: $(TOOLS:%=bin/tools/%) bin/tools/observe
bin/tools/containerd bin/tools/ctr: bin/tools/%: integration/tools/go.mod integration/tools/go.sum
	$(GO) -C integration/tools build -ldflags '-s -w' -o $(CURDIR)/$@ github.com/containerd/containerd/v2/cmd/$*
bin/tools/containerd-shim-runc-v2: integration/tools/go.mod integration/tools/go.sum
	$(GO) -C integration/tools build $(RUNC_FLAGS) -o $(CURDIR)/$@ github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2

tools-1.7: $(TOOLS:%=bin/tools/1.7/%)
$(TOOLS:%=bin/tools/1.7/%): bin/tools/1.7/%: integration/tools17/go.mod integration/tools17/go.sum
	$(GO) -C integration/tools17 build -ldflags '-s -w' -o $(CURDIR)/$@ github.com/containerd/containerd/cmd/$*

# What the tests' images have to look at system calls with; for this machine.
OBSERVE_SRC := integration/observe/observe.c cmd/nexcage-init/mem.c
bin/tools/observe: $(OBSERVE_SRC) cmd/nexcage-init/sys.h cmd/nexcage-init/flags.mk
	@mkdir -p $(@D)
	gcc $(HELPER_CFLAGS) $(HELPER_LDFLAGS) -o $@ $(OBSERVE_SRC)

# Debian 12's package is unpacked, not installed. Where the distribution has no
# 1.6 the file `absent` says so, and the tests that want one are skipped.
tools-1.6: bin/tools/1.6/.done
bin/tools/1.6/.done:
	@mkdir -p $(@D)/deb
	@v=$$(apt-cache madison containerd | awk '$$3 ~ /^1\.6\./ {print $$3; exit}'); \
	if [ -z "$$v" ] && [ -z "$$(apt-cache madison containerd)" ]; then \
		apt-get update -q && v=$$(apt-cache madison containerd | awk '$$3 ~ /^1\.6\./ {print $$3; exit}'); fi; \
	if [ -z "$$v" ]; then echo 'no package of containerd 1.6 here' | tee $(@D)/absent; \
	else cd $(@D)/deb && { apt-get download -q -o APT::Sandbox::User=root "containerd=$$v" || { apt-get update -q && apt-get download -q -o APT::Sandbox::User=root "containerd=$$v"; }; } && \
		dpkg -x containerd_*.deb .. && rm containerd_*.deb; fi
	@touch $@

test: setup build tools ## everything: vet, unit tests, fuzz targets for a while, integration tests
	$(MAKE) unit fuzz-short integration

unit: ## vet and unit tests
	$(GO) vet ./...
	$(GO) -C integration vet ./...
	$(GO) test -timeout 10m ./...

# Never from the cache: the results depend on the machine.
integration: ## integration tests (of what build and tools made)
	$(GO) -C integration test -count=1 -timeout 25m ./...

.PHONY: setup-vm vm-image vm-shell vm test-vm test-vm-short
setup-vm: ## install what the virtual machines need: QEMU, mmdebstrap
	$(call install,$(VM_PACKAGES))

vm:
	$(GO) -C integration build -ldflags '-s -w' -o $(CURDIR)/bin/vm ./cmd/vm

vm-image: setup-vm vm ## make the images of the virtual machines, bookworm and trixie, if they are missing
	bin/vm image

vm-shell: setup-vm vm build tools-2.4 bin/tools/observe ## a shell in a virtual machine like the users' hosts (DISTRIBUTION=bookworm)
	bin/vm shell $(if $(DISTRIBUTION),-distribution $(DISTRIBUTION))

bin/integration.test: FORCE
	$(GO) -C integration test -ldflags '-s -w' -c -o $(CURDIR)/$@ .
.PHONY: FORCE

test-vm: setup setup-vm vm build deb standin tools-2.4 bin/integration.test ## the integration tests in virtual machines: cgroup v2, systemd, AppArmor
	bin/vm test

test-vm-short: setup setup-vm vm build deb standin tools-2.4 bin/integration.test ## the life-cycle table of each host in one of them, and the package
	bin/vm test -short

race: build ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

demo: setup build standin tools-2.4 ## a container on LXC and one through crun, shown step by step
	$(GO) -C integration run ./cmd/demo

bench: setup build standin tools-2.4 tools-1.6 ## the table of measurements, against containerd's runc shim
	$(GO) -C integration run ./cmd/bench -n $(BENCHN)

lint: ## gofmt, vet, staticcheck, govulncheck
	@files=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$files" ]; then echo "gofmt -w is needed for:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	$(GO) -C integration vet ./...
	$(GO) run -modfile=integration/lint/go.mod honnef.co/go/tools/cmd/staticcheck ./...
	cd integration && $(GO) run -modfile=lint/go.mod honnef.co/go/tools/cmd/staticcheck ./...
	$(GO) run -modfile=integration/lint/go.mod golang.org/x/vuln/cmd/govulncheck ./...

# Fuzz targets, and the directories that have some.
FUZZ_TARGETS := grep -rho --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd lxc oci shim
FUZZ_DIRS    := grep -rl --include='*_test.go' '^func Fuzz' cmd lxc oci shim | xargs -n 1 dirname | sort -u

# A worker of Go's fuzzing that is still busy when the time is over fails its
# target with nothing but this. A failing input is always told.
out-of-time = { grep -qx '    context deadline exceeded' $$tmp/output && ! grep -q 'ailing input\|seed corpus entry' $$tmp/output; }

# Each target of each package for a time. $(1): flags to build with; $(2): time; $(3): where inputs are kept that find something new.
define fuzz-each
@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; time=$(2); \
for dir in $$($(FUZZ_DIRS)); do \
	$(GO) test -C $$dir -c $(1) -o $$tmp/fuzz.test .; \
	for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
		echo "$$dir $$target"; \
		{ code=0; (cd $$dir && $$tmp/fuzz.test -test.run '^$$' -test.fuzz "^$$target\$$" -test.fuzztime $$time -test.fuzzcachedir "$(3)/$$dir") 2>&1 || code=$$?; \
			echo $$code > $$tmp/status; } | tee $$tmp/output; \
		[ "$$(cat $$tmp/status)" = 0 ] || $(out-of-time) || exit 1; \
	done; \
done
endef

fuzz: ## every fuzz target for FUZZTIME (make fuzz FUZZTIME=10m)
	$(call fuzz-each,-fuzz=.,$(FUZZTIME),$(shell $(GO) env GOCACHE)/fuzz)

# Of `make test`: all targets together for FUZZ_SECONDS, from the kept corpora
# on. Without instrumentation, for which all that the packages import would be
# compiled once more: minutes, where the time is for trying.
fuzz-short:
	$(call fuzz-each,,$$(($(FUZZ_SECONDS) / $$($(FUZZ_TARGETS) | wc -l)))s,$$tmp)

install: build ## install into DESTDIR and PREFIX
	install -D -m 0755 $(BIN)/containerd-shim-nexcage-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-nexcage-v2
	install -D -m 0755 $(BIN)/nexcage-init $(DESTDIR)$(PREFIX)/libexec/nexcage/nexcage-init
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/systemd/*
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 packaging/*.8
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/nexcage README.md CHANGELOG.md LICENSE packaging/config.toml
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/nexcage/docs docs/*.md

deb: build ## the Debian package, into bin/ (GOARCH=arm64: bin/linux-arm64/)
	@rm -f $(BIN)/nexcage_*.deb
	set -e; tree=$$(mktemp -d); trap 'rm -rf "$$tree"' EXIT; chmod 0755 "$$tree"; \
		$(MAKE) install DESTDIR="$$tree" PREFIX=/usr GOARCH=$(GOARCH); \
		GOARCH=$(GOARCH) GO=$(GO) packaging/licenses $(SHIM_TAGS) > "$$tree/usr/share/doc/nexcage/licenses"; \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null) packaging/deb/build "$$tree" $(GOARCH) "$(VERSION)" $(BIN)

clean: ## remove what was built
	rm -rf bin

# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything is done by tests/tools/dev.py; `python3 tests/tools/dev.py --help` tells more.
DEV = python3 tests/tools/dev.py

.DEFAULT_GOAL := help
IMAGE ?= bootstrap:bookworm
DRIVER ?= qemu

.PHONY: help demo demo-clean test lint docs sanity unit fuzz integration molecule bench changelog format tools clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo:  ## bring up a small cloud on this machine and run plays on it; DRIVER=lxd, IMAGE=24.04 and the like take others
	@python3 tests/tools/demo.py up --driver '$(DRIVER)' --image '$(IMAGE)'

demo-clean:  ## remove what demos made
	@python3 tests/tools/demo.py down

test:  ## everything that CI runs: lint, docs, sanity, unit, fuzz, integration
	@$(DEV) test

lint:  ## style, types, licences, ansible-lint, galaxy-importer
	@$(DEV) lint

docs:  ## documentation of all plugins
	@$(DEV) docs

sanity:  ## ansible-test sanity on each supported ansible-core
	@$(DEV) sanity

unit:  ## ansible-test units on each supported ansible-core and Python
	@$(DEV) unit

fuzz:  ## damaged input for every reader; CASES=5000 takes longer, SEED=1 the same input again
	@$(DEV) fuzz $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED))

integration:  ## targets on real hypervisors; T="a b" runs only these
	@$(DEV) integration $(T)

molecule:  ## the scenario for the tests of roles, with molecule from the package index
	@$(DEV) molecule

bench:  ## measure
	@$(DEV) bench

changelog:  ## release: turn changelogs/fragments into the changelog of the version in galaxy.yml
	@$(DEV) changelog

format:  ## let ruff format the code and fix what it can, and write what the documentation has from the code
	@$(DEV) format

tools:  ## only install what all of this needs
	@$(DEV) tools

clean:  ## remove everything that was made here
	@$(DEV) clean

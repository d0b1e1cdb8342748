# `make demo` and `make test` do everything from a fresh Debian 12 on; `make help` lists the rest.
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
.DEFAULT_GOAL := build

.PHONY: help build demo test test-cpp test-python gpu-test wheel format format-check lint bench docs sanitize fuzz tsan arm mutants install clean
.PHONY: build-packages lint-packages python-packages clang-packages arm-packages

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: build/build.ninja ## Builds build/libfa.so, build/fa and the tests
	@cmake --build build -j $(JOBS)

demo: build/build.ninja ## Builds and runs the demo: famous models' attention, checked and timed
	@cmake --build build -j $(JOBS) --target fa_cli
	build/fa demo

test: build python-packages ## Builds and runs all tests; says at the end which failed
	@tools/test_all --parallel $(JOBS)

test-cpp: build python-packages ## The library's and the program's tests
	@tools/run_tests build --parallel $(JOBS)

test-python: build-packages python-packages ## The Python package's, from its wheel
	@tools/test_python

gpu-test: build ## On a GPU: random problems, tests/gpu, compute-sanitizer
	@tools/gpu_test --json build/gpu-test.json

wheel: build-packages python-packages ## The Python package's wheel, in build-python/dist
	@tools/build_wheel

sanitize: build-sanitize/build.ninja python-packages ## The library's and the readers' tests under ASan and UBSan
	@cmake --build build-sanitize -j $(JOBS)
	@tools/run_tests build-sanitize --parallel $(JOBS)

fuzz: build-fuzz/build.ninja ## Fuzzes the file readers and the C ABI, some seconds each
	@cmake --build build-fuzz -j $(JOBS) --target fuzzers
	@tools/run_tests build-fuzz --parallel $(JOBS)
	@grep accepted build-fuzz/Testing/Temporary/LastTest.log

tsan: build-tsan/build.ninja ## 200 random problems under the thread sanitizer
	@cmake --build build-tsan -j $(JOBS) --target property_test cuda_cache_test
	@tools/run_tests build-tsan --tests-regex '^(property_best|cuda_cache_test)$$'

arm: build-arm/build.ninja ## 200 random problems on 64-bit Arm, emulated
	@cmake --build build-arm -j $(JOBS) --target property_test
	@tools/run_tests build-arm --tests-regex '^property_best$$'

mutants: build-packages lint-packages ## Breaks the library in one place at a time; a named test must notice
	@tools/mutants.py --jobs $(JOBS)

bench: build ## Times this library; see `build/fa bench --help`
	build/fa bench

docs: build lint-packages ## Checks links and names in the Markdown files (make test runs their commands)
	@tools/check_docs.py

format: lint-packages ## Formats the sources
	@tools/format

format-check: lint-packages ## Says which sources are not formatted
	@tools/format --check

lint: build/build.ninja build-fuzz/build.ninja lint-packages ## clang-tidy and ruff
	@tools/lint --jobs $(JOBS)

install: build/build.ninja ## Installs under PREFIX (/usr/local)
	@cmake --build build -j $(JOBS) --target fa fa_cli_installed
	cmake --install build --prefix $(PREFIX)
	@if [ "$$(id -u)" -eq 0 ]; then ldconfig; fi

clean: ## Removes what the targets above built
	rm -rf build build-sanitize build-fuzz build-tsan build-arm build-mutants build-python

build/build.ninja: CMakePresets.json | build-packages
	cmake --preset release

build-sanitize/build.ninja: CMakePresets.json | build-packages
	cmake --preset sanitize

build-fuzz/build.ninja: CMakePresets.json | build-packages clang-packages
	cmake --preset fuzz

build-tsan/build.ninja: CMakePresets.json | build-packages clang-packages
	cmake --preset tsan

build-arm/build.ninja: CMakePresets.json | build-packages arm-packages
	cmake --preset arm

build-packages:
	@tools/bootstrap build

clang-packages:
	@tools/bootstrap clang

arm-packages:
	@tools/bootstrap arm

lint-packages python-packages:
	@tools/bootstrap python

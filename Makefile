# Each target sets up what it needs, in .venv; only Python 3.11 or later and make have to be there.
PYTHON ?= python3
# The CUDA version of the driver, 13 or 12: which wheels of CuPy and Numba to take for the demo on a GPU.
CUDA ?= 13

venv := .venv
bin := $(venv)/bin
pip := $(bin)/python -m pip --quiet --disable-pip-version-check install
gpu := $(shell command -v nvidia-smi)
# After a change of these, the package is installed anew, which builds the extension in C.
built_from := pyproject.toml setup.py $(wildcard interop/_native/*.c interop/_native/*.h)

comma := ,
demo_extras := $(if $(gpu),demo$(comma)cuda$(CUDA),demo)

.PHONY: demo test sanitize lint types docs site picture notebooks run-notebooks wheel wheel-aarch64 sdist with gpu-test bench mutants oldest clean

demo: $(venv)/demo.done
	$(bin)/python -m interop demo

test: $(venv)/test.done
	$(bin)/python -m pytest -n 2 --interop-require=cupy,numba,torch,cuda.core,rmm,acme_streams,numpy

# The extension, built to stop at the first wrong address and the first undefined operation, over a driver in C. Python's
# own allocator would hide what is used after its end. That the process leaks at its end is Python's way.
sanitized := build/sanitize
sanitize: $(venv)/test.done
	rm -rf $(sanitized)
	mkdir -p $(sanitized)
	cp -r interop tests benchmarks pyproject.toml $(sanitized)
	rm -f $(sanitized)/interop/_native/*.so
	$(CC) -O1 -g -std=c11 -shared -fPIC -fvisibility=hidden -fsanitize=address,undefined -fno-sanitize-recover=all \
		-I"$$($(bin)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
		-o $(sanitized)/interop/_native/_ext.abi3.so interop/_native/*.c
	cd $(sanitized) && export PYTHONPATH=. PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" && \
		INTEROP_NATIVE=1 "$(CURDIR)/$(bin)/python" -c "import interop" && \
		"$(CURDIR)/$(bin)/python" -m pytest -q -n 2 -k "not costs_the_same" \
		tests/native/test_native.py tests/native/test_native_stubs.py tests/native/test_native_handovers.py \
		tests/native/test_exchange_api.py tests/arrays/test_tensor.py \
		tests/ledger/driver/test_recorder.py

lint: $(venv)/dev.done
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(venv)/dev.done
	$(bin)/mypy
	$(bin)/python -m pytest -q tests/tools/test_types.py --interop-require=mypy,pyright

# The tables of measurements in the README and docs/, from the files that `make gpu-test` and `make bench` have written.
docs: $(venv)/test.done
	$(bin)/python -m docs.update

# The documentation site, in build/site. A reference or a link that leads nowhere fails.
# Without the extension, so that the signatures have their types.
site: $(venv)/site.done
	rm -rf build/site docs/generated
	INTEROP_NATIVE=0 $(bin)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto docs build/site
	$(bin)/python -m pytest -q docs

# The README's picture; on a GPU machine, with CuPy, PyTorch, Numba and matplotlib in $(PYTHON)'s environment.
picture:
	$(PYTHON) -m docs.timeline

# Every notebook is valid and was run; the one that needs no GPU runs.
notebooks: $(venv)/dev.done
	$(bin)/python -m pytest notebooks

# On a GPU machine, with the extra "notebook" installed in $(PYTHON)'s environment: run them, and keep what they show.
run-notebooks:
	$(PYTHON) notebooks/execute.py notebooks/*.ipynb

# A wheel for every CPython from 3.11 on and every Linux from 2014 on: built from the sdist, audited, installed into an environment of
# its own and used from outside this folder. And one from a machine without a compiler, which works all the same.
wheel: $(venv)/dev.done
	rm -rf build dist $(venv)/wheel
	$(bin)/python -m build --outdir build/wheel . >/dev/null
	$(bin)/abi3audit --strict build/wheel/*.whl
	PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	$(PYTHON) -m venv $(venv)/wheel
	$(venv)/wheel/bin/python -m pip --quiet --disable-pip-version-check install "$$(ls dist/*.whl)[demo]"
	cd / && INTEROP_NATIVE=1 "$(CURDIR)/$(venv)/wheel/bin/python" -m interop demo
	rm -rf build/lib* build/temp* build/bdist*
	CC=false $(bin)/python -m build --wheel --outdir build/plain . >/dev/null 2>&1
	$(venv)/wheel/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --force-reinstall build/plain/*.whl
	cd / && "$(CURDIR)/$(venv)/wheel/bin/python" -c "from interop import _native; assert not _native.native"
	cd / && "$(CURDIR)/$(venv)/wheel/bin/python" -m interop demo
	cp build/wheel/*.tar.gz dist

# The same wheel for aarch64, on any machine: the compiler is zig, which brings the C library of each system.
zig := $(CURDIR)/$(venv)/zig
wheel-aarch64: $(venv)/dev.done
	@echo "Installing in $(venv): the compiler zig (400 MB)"
	$(pip) ziglang
	printf '#!/bin/sh\nexec "$(CURDIR)/$(bin)/python" -m ziglang cc -target aarch64-linux-gnu.2.17 -g0 "$$@"\n' > $(zig)
	chmod +x $(zig)
	rm -rf build/lib* build/temp* build/bdist* build/aarch64
	CC="$(zig)" LDSHARED="$(zig) -shared" _PYTHON_HOST_PLATFORM=linux-aarch64 \
		$(bin)/python -m build --wheel --outdir build/aarch64 . >/dev/null
	$(bin)/abi3audit --strict build/aarch64/*.whl
	PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/auditwheel repair --wheel-dir dist build/aarch64/*.whl

# The tests of the sdist, run where it is unpacked: with the libraries of $(venv), and its own extension.
sdist: $(venv)/dev.done
	rm -rf build/sdist
	mkdir -p build/sdist
	$(bin)/python -m build --sdist --outdir build/sdist . >/dev/null
	tar xzf build/sdist/*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && "$(CURDIR)/$(bin)/python" setup.py --quiet build_ext --inplace
	cd build/sdist && PYTHONPATH=. "$(CURDIR)/$(bin)/python" -m pytest -q -n 2 tests/core/test_streams.py tests/sim/test_ordering.py tests/tools/test_readme.py

# The core and the simulator, with the oldest cuda-python that is allowed and no GPU library at all.
oldest: $(venv)/oldest.done
	$(venv)/oldest/bin/python -m pytest tests/core/test_streams.py tests/sim/test_sim.py tests/sim/test_sim_rules.py tests/core/test_errors.py

$(venv)/oldest.done: $(built_from)
	@echo "Installing in $(venv)/oldest: interop, with the oldest cuda-python that is allowed (200 MB)"
	$(PYTHON) -m venv $(venv)/oldest
	$(venv)/oldest/bin/python -m pip --quiet --disable-pip-version-check install \
		"cuda-python==12.9.*" hypothesis pytest pytest-timeout --editable ".[demo]"
	touch $@

# The libraries of docs/with.md that take a stream without a driver: each gets one. It writes tests/gpu/with.json.
with: $(venv)/with.done
	$(venv)/with/bin/python -m pytest tests/tools/test_with.py \
		--interop-require=cuda.tile,cutlass,nccl.core,nvidia.dali.experimental.dynamic,nvshmem.core,onnxruntime,quadrants,tvm_ffi

$(venv)/with.done: $(built_from) tests/with.txt
	@echo "Installing in $(venv)/with: interop, and libraries that take its streams (2 GB)"
	$(PYTHON) -m venv $(venv)/with
	$(venv)/with/bin/python -m pip --quiet --disable-pip-version-check install \
		--requirement tests/with.txt --editable ".[testing]" hypothesis pytest-timeout
	touch $@

# On a GPU machine, with the libraries installed in $(PYTHON)'s environment: a skip is a failure there.
gpu-test:
	$(PYTHON) -m pytest tests/gpu --interop-require=gpu,cupy,numba,torch,jax,cuda.core $(GPU_TEST_OPTIONS)

# On a GPU machine, likewise, with matplotlib and a C compiler: what each call costs, beside C and the other libraries.
# It takes at most six minutes. BENCH_OPTIONS="--quick --only wait_stream" for a look.
bench:
	$(PYTHON) -m benchmarks $(BENCH_OPTIONS)

# Break the code on purpose, in many ways; each must turn a test red. MUTANTS="order.c Clocks" takes only those whose
# function or name contains one of these words.
mutants: $(venv)/test.done
	$(bin)/python tests/mutants.py $(MUTANTS)

clean:
	rm -rf $(venv) build dist docs/generated *.egg-info interop/_native/*.so interop/_native/_ext.txt tests/plugin/build \
		tests/plugin/*.egg-info

# pip is what a new environment gets last: one without it is half-made, as Debian's Python makes it without the package
# python3-venv. It is removed, and made anew.
$(venv)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	rm -rf $(venv)
	$(PYTHON) -m venv $(venv) || { rm -rf $(venv); exit 1; }

$(venv)/demo.done: $(built_from) | $(venv)/bin/pip
	@echo "Installing in $(venv): interop and what the demo needs, $(if $(gpu),with CuPy and Numba (1 GB),160 MB)"
	$(pip) --editable ".[$(demo_extras)]"
	touch $@

$(venv)/test.done: $(built_from) $(wildcard tests/plugin/pyproject.toml tests/plugin/*/*.py) | $(venv)/bin/pip
	@echo "Installing in $(venv): interop and what its tests need, with PyTorch, CuPy, Numba and RMM (2 GB)"
	$(pip) --editable ".[test]"
	$(pip) --force-reinstall --no-deps ./tests/plugin
	touch $@

$(venv)/site.done: $(built_from) | $(venv)/bin/pip
	@echo "Installing in $(venv): interop and what its site needs, with Sphinx (500 MB)"
	$(pip) --editable ".[docs]"
	touch $@

$(venv)/dev.done: $(built_from) | $(venv)/bin/pip
	@echo "Installing in $(venv): interop and what its tests, linters and notebooks need (2 GB)"
	$(pip) --editable ".[dev]"
	touch $@

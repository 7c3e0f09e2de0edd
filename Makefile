# Needs Python ≥ 3.10 and PyPI, nothing else: each target makes the environment that it works in.

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-out

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test test-edge lint proto clean

demo: $(VENV)/demo.stamp
	$(BIN)/unimic demo --out $(OUT) --force

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(TESTS)

# The wheel with the edge extra alone, in an environment of its own.
test-edge:
	rm -rf $(VENV)-edge && $(PYTHON) -m venv $(VENV)-edge
	$(VENV)-edge/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt '.[edge]'
	$(VENV)-edge/bin/python tests/edge_alone.py
	rm -rf $(VENV)-edge

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy codec edge cloud
	$(BIN)/lint-imports --no-cache --no-logo

# The stubs are made with an old compiler, so that they run with every protobuf from 6.31.1 on.
proto:
	$(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/python -m pip install -q grpcio-tools==1.75.1
	$(VENV)-proto/bin/python -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto \
	  --grpc_python_out=proto proto/unimic/v1/packet.proto proto/unimic/v1/service.proto
	rm -f proto/unimic/v1/packet_pb2_grpc.py  # packets have no service
	rm -rf $(VENV)-proto

clean:
	rm -rf $(VENV) $(VENV)-edge $(VENV)-proto $(OUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: $(VENV)/pyvenv.cfg $(SETTINGS)
	@echo "Installing into $(VENV), this takes a few minutes the first time"
	$(INSTALL) -e '.[$*]'
	@touch $@

# make demo: install, then the six-run ablation.   make test, make lint: what CI runs.
PYTHON ?= python3

.PHONY: install demo test slurm-test-cluster lint format

# Done again only when a dependency changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed

demo: install
	.venv/bin/python src/train.py -m prior.lambda=0,1 class=none,wrong,correct

# tests/conftest.py orders the files: the slow ones first.
test: install
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# A SLURM cluster of two nodes on this machine (as root, on Debian or Ubuntu), to try launcher=slurm; it is removed by
# tests/slurm/cluster.sh stop
slurm-test-cluster:
	tests/slurm/cluster.sh start

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: install
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

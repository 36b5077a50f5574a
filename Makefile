# Every target sets up what it needs (see scripts/setup); the second time that takes a moment.
#
# A recipe is two commands, each a direct child of make: so Ctrl-C and SIGTERM reach the set-up and the
# program themselves, and no shell in between is left to die alone.

.DEFAULT_GOAL := help
.PHONY: help demo test stress compose-test lint bench strategies clean

help:
	@echo 'make demo    run the demo site on http://127.0.0.1:8080 until Ctrl-C'
	@echo '             MPM=prefork|worker|event|daemon  DB=mariadb|sqlite  PORT=number'
	@echo '             STANDALONE=1 takes the Apache from PyPI even where Debian has one'
	@echo 'make test    run all tests; pass on options with ARGS="-k pool -x"'
	@echo 'make stress  the tests that search at random, fifty times as long, and those that take minutes: three hours'
	@echo 'make compose-test  the tests of the containers in docker/: it takes Docker; results in docker/results'
	@echo 'make lint    ruff check, ruff format --check, mypy --strict'
	@echo 'make bench   measure against other pools; ARGS="uncontended --quick" chooses and shortens'
	@echo 'make strategies  four ways to share connections, side by side; ARGS=--quick shortens'
	@echo 'make clean   remove the environment and everything else that was made here'
	@echo
	@echo 'Each sets up first what is missing; PYTHON=/path/to/python3 chooses the Python (3.11 or newer).'

SEARCHES = unit/test_pool_model.py unit/test_pool_interrupts.py unit/test_cache_interrupts.py unit/test_cache_processes.py \
    unit/test_drivers_pymysql_answers.py unit/test_locks.py unit/test_locks_interrupts.py drivers/test_locks_database.py \
    httpd/test_budget.py faults/test_budget_hammered.py

# Only what was given is passed on: the defaults are the program's.
demo:
	@scripts/setup demo
	@exec .venv/bin/wsgipool demo $${MPM:+--mpm "$$MPM"} $${DB:+--db "$$DB"} $${PORT:+--port "$$PORT"}

test:
	@scripts/setup test
	@exec .venv/bin/pytest $(ARGS)

stress:
	@scripts/setup test
	@exec .venv/bin/pytest --stress $(addprefix tests/,$(SEARCHES)) $(ARGS)

compose-test:
	@exec docker/compose-test $(ARGS)

lint:
	@scripts/setup lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict

bench:
	@scripts/setup bench
	@exec .venv/bin/python -m benchmarks $(ARGS)

# --markdown: what the README has of it.
strategies:
	@scripts/setup bench
	@exec .venv/bin/python -m benchmarks.strategies --markdown $(ARGS)

clean:
	@scripts/setup clean

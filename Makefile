# Every target first runs scripts/setup, which is quick if nothing is missing.
#
# A recipe has two commands, each a direct child of make. So Ctrl-C and SIGTERM reach the set-up and the
# program, and not only a shell between.

.DEFAULT_GOAL := help
.PHONY: help demo test compat stress compose-test lint docs package bench strategies clean

help:
	@echo 'make demo    run the demo site on http://127.0.0.1:8080 until Ctrl-C'
	@echo '             APP=plain|flask|django: Flask with plain SQL, Flask with SQLAlchemy, or Django'
	@echo '             MPM=prefork|worker|event|daemon  DB=mariadb|sqlite  PORT=number'
	@echo '             STANDALONE=1 uses the Apache from PyPI even if the system has one'
	@echo 'make test    the tests, five to ten minutes on two cores; pass on options with ARGS="-k pool -x -n 0"'
	@echo 'make compat  the tests on MySQL and on a Galera cluster, and the suites of PyMySQL and others: 14 minutes'
	@echo '             SUITES="django-* pymysql" chooses suites; SUITES=all runs the long ones, too: hours'
	@echo 'make stress  random searches, 200 times as long as in make test, and tests that take minutes: three hours'
	@echo 'make compose-test  the tests in the containers of docker/; needs Docker; results in docker/results'
	@echo 'make lint    ruff, mypy --strict, spelling and words: all hooks of .pre-commit-config.yaml'
	@echo 'make docs    build the documentation into docs/_build/html; warnings are errors'
	@echo 'make package build wheel and sdist into dist/, check them, and try each in an empty environment'
	@echo 'make bench   measure against other pools; ARGS="uncontended --quick" chooses and shortens'
	@echo 'make strategies  four ways to share connections, side by side; ARGS=--quick shortens'
	@echo 'make clean   remove the environment and everything else that was made here'
	@echo
	@echo 'Each target first sets up its needs; PYTHON=/path/to/python3 chooses the Python (3.11 or newer).'

SEARCHES = unit/test_pool_model.py unit/test_pool_interrupts.py unit/test_cache_interrupts.py unit/test_cache_processes.py \
    unit/test_drivers_pymysql_answers.py unit/test_locks.py unit/test_locks_interrupts.py drivers/test_locks_database.py \
    httpd/test_budget.py faults/test_budget_hammered.py

# tests/conftest.py sets the number of workers; a worker without work takes tests from another.
WORKERS = -n auto --dist worksteal

# Pass on only the given variables; the program has the defaults.
demo:
	@scripts/setup demo
	@exec .venv/bin/wsgipool demo $${APP:+--app "$$APP"} $${MPM:+--mpm "$$MPM"} $${DB:+--db "$$DB"} $${PORT:+--port "$$PORT"}

test:
	@scripts/setup test
	@exec .venv/bin/pytest $(WORKERS) $(ARGS)

compat:
	@scripts/setup test
	@exec .venv/bin/pytest $(WORKERS) -m compat $(ARGS)
	@PYTHONPATH=tests exec .venv/bin/python -m compat $(SUITES)

stress:
	@scripts/setup test
	@exec .venv/bin/pytest --stress -m '' $(addprefix tests/,$(SEARCHES)) $(ARGS)

compose-test:
	@exec docker/compose-test $(ARGS)

lint:
	@scripts/setup lint
	@PRE_COMMIT_HOME=.venv/pre-commit exec .venv/bin/pre-commit run --all-files $(ARGS)

docs:
	@scripts/setup docs
	@exec .venv/bin/sphinx-build -E -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html

package:
	@scripts/setup package
	@exec scripts/package

bench:
	@scripts/setup bench
	@exec .venv/bin/python -m benchmarks $(ARGS)

# --markdown prints the table of docs/explain/strategies.md.
strategies:
	@scripts/setup bench
	@exec .venv/bin/python -m benchmarks.strategies --markdown $(ARGS)

clean:
	@scripts/setup clean

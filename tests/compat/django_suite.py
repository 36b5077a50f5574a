"""Run Django's runtests.py, which is in the current folder, with the MySQLdb of COMPAT_BACKEND.

runtests.py imports MySQLdb before it reads settings, so settings would be too late to choose another.
"""

from __future__ import annotations

import os
import runpy

import pymysql

if os.environ["COMPAT_BACKEND"] == "pymysql":
    pymysql.version_info = (2, 2, 8, "final", 0)  # PyMySQL says 1.4.6; Django 6 wants the interface of mysqlclient 2.2
    pymysql.install_as_MySQLdb()

runpy.run_path("runtests.py", run_name="__main__")

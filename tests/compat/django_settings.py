"""The settings of Django's suite. Its databases are in the variable COMPAT_DATABASES."""

from __future__ import annotations

import json
import os

DATABASES = json.loads(os.environ["COMPAT_DATABASES"])
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = "compat"
TEST_RUNNER = "compat.django_runner.Runner"
USE_TZ = False

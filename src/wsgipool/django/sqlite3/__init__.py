"""SQLite in Django: `"ENGINE": "wsgipool.django.sqlite3"`."""

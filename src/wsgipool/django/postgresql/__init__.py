"""PostgreSQL in Django: `"ENGINE": "wsgipool.django.postgresql"`."""

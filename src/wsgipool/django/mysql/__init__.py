"""MySQL and MariaDB in Django: `"ENGINE": "wsgipool.django.mysql"`."""

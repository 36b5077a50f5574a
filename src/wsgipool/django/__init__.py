"""Database backends for Django whose connections come from pools of this process.

`ENGINE` is `wsgipool.django.mysql`. Everything else in `DATABASES` stays as for Django's own backend.
"""

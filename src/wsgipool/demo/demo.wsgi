# mod_wsgi loads this file and calls what it finds here under the name "application".
from wsgipool.demo.site import application
__all__ = ["application"]

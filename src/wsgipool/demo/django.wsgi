# mod_wsgi loads this file and calls its "application": Django.
import os

from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "wsgipool.demo.django_site.settings"
application = get_wsgi_application()

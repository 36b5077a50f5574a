# mod_wsgi loads this file and calls its "application": Flask with plain SQL.
from wsgipool.demo import plain_sql
from wsgipool.demo.flask_site import create_application

application = create_application(plain_sql)

# mod_wsgi loads this file and calls its "application": Flask with SQLAlchemy.
from wsgipool.demo import sqlalchemy_orm
from wsgipool.demo.flask_site import create_application

application = create_application(sqlalchemy_orm)

"""A WSGIAuthUserScript that asks the database: in daemon mode too it runs in Apache's own children, each with a pool."""

import wsgipool


def check_password(_environ, user, password):
    with wsgipool.connection("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s = 'reader' AND %s = 'open sesame', SLEEP(0.002)", (user, password))
        return bool(cursor.fetchone()[0])

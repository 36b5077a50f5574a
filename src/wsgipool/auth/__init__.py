"""Users, passwords and groups from a table, for the authentication of Apache; `handlers/auth.py` is the script."""

"""The parts of the status page: pure functions of a `View`, and the questions to the database servers.

`page` writes HTML and `auto` plain text. All HTML is made by `markup`, which escapes every value.
"""

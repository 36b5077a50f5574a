"""Scripts that mod_wsgi loads by their file; the Apache files in `wsgipool/apache` name them."""

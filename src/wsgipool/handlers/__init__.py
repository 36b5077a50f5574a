"""Scripts that mod_wsgi loads by their file name; the files in `wsgipool/apache` name them."""

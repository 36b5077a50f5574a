"""Files and locks that the processes of one host share."""

"""Apache httpd: seen from inside a process (`process`), from outside (`configuration`), and started (`express`)."""

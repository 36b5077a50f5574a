"""What Apache httpd says and does: this process's place in it (`process`), and starting one (`express`)."""

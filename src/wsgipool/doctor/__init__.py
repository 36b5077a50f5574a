"""Examination of a live site: each module examines one side of it and yields findings with a remedy."""

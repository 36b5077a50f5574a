"""What an expert would find in a live site: each module looks at one side of it, and reports findings with a remedy."""

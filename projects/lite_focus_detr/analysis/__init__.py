"""What a detector costs, and which tokens it looks at."""

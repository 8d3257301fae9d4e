"""What a detector costs and what it gets wrong."""

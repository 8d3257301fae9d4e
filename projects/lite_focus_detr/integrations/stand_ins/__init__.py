"""A folder for the import path, where processes that a script starts find the extension."""

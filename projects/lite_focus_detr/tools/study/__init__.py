"""The comparison of all encoders on equal terms."""

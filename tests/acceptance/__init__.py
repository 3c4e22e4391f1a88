"""The real commands and deployment files, as a user meets them."""

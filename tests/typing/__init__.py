"""Types, as a user's checker reads them."""

"""The tests: by subject, in folders that mirror the package."""

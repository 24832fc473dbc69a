"""How and when it runs: everything that waits, retries, listens or wires. Importing this package imports nothing."""

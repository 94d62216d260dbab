"""The routes, by protocol, and what each makes of a request."""

"""A small asynchronous client of the Kubernetes API: credentials, requests, list and watch."""

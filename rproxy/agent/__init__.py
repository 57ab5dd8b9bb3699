"""The agent, which runs on a back-end: registers it with the proxies, answers their probes, checks the service.

The proxy imports none of it, except for the demo.
"""

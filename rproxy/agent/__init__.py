"""The program of a back-end: registers its host with the proxies, answers their probes, checks the service.

The proxy imports none of it, except for the demo.
"""

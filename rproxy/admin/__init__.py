"""The operators' HTTP listener: its server, the page, metrics and API. What it shows is made by `observe`."""

"""``probe.py PORT``: fails unless the service on this port of the same container is alive. Ignores proxy settings."""

import http.client
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=4)
connection.request("GET", "/health/live")
status = connection.getresponse().status
if status != 200:
    sys.exit(f"/health/live answers {status}")

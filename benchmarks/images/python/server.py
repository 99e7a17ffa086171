"""Answers over HTTP; with --check, asks whether it does. Both only from the virtual environment."""

import http.client
import http.server
import sys

PLACE = ("127.0.0.1", 8000)

if sys.prefix == sys.base_prefix:
    sys.exit("this is not the virtual environment's Python")
if "--check" in sys.argv:
    connection = http.client.HTTPConnection(*PLACE, timeout=5)
    connection.request("GET", "/server.py")
    sys.exit(connection.getresponse().status != 200)
http.server.HTTPServer(PLACE, http.server.SimpleHTTPRequestHandler).serve_forever()

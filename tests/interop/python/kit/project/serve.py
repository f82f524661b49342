"""Brings the tables up to date and serves the project at a free port of loopback, which it prints on standard output."""

import os
import socketserver
import sys
import wsgiref.simple_server

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self):  # without asking for the host's name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def main():
    application = get_wsgi_application()
    if "--migrate" in sys.argv:
        call_command("migrate", run_syncdb=True, verbosity=0)
        connections.close_all()
    with Server(("127.0.0.1", 0), Handler) as server:
        server.set_app(application)
        print(f"listens at {server.server_port}", flush=True)
        server.serve_forever()


main()

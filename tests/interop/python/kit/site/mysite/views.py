"""The views of the project: what a real site streams, up and down."""

import hashlib
import time

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie

BLOCK = 64 * 1024

PAGE = """<!doctype html><meta charset="utf-8"><title>mysite</title>
<link rel="stylesheet" href="/static/admin/css/base.css">
<h1>mysite</h1>
"""


@ensure_csrf_cookie
def page(request):
    """A page with the CSRF cookie, from which the tests' scripts do the rest."""
    return HttpResponse(PAGE)


def icon(request):
    """No icon: a browser reports a missing one as an error of the page."""
    return HttpResponse(status=204)


def upload(request):
    """Reads a body as it comes; answers with its size and hash."""
    size, digest = 0, hashlib.sha256()
    while block := request.read(BLOCK):
        size += len(block)
        digest.update(block)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def download(request):
    """Streams as many bytes as asked for."""
    left = int(request.GET["bytes"])
    blocks = (bytes([at % 251]) * min(BLOCK, left - at * BLOCK) for at in range(-(-left // BLOCK)))
    return StreamingHttpResponse(blocks, content_type="application/octet-stream")


def events(request):
    """Server-Sent Events, one after the other."""

    def stream():
        for number in range(int(request.GET.get("count", "3"))):
            yield f"id: {number}\ndata: {time.time()}\n\n"
            time.sleep(float(request.GET.get("pause", "0.5")))

    return StreamingHttpResponse(stream(), content_type="text/event-stream", headers={"Cache-Control": "no-store"})


def seen(request):
    """Answers with what Django believes about the request."""
    return JsonResponse(
        {
            "secure": request.is_secure(),
            "host": request.get_host(),
            "url": request.build_absolute_uri(),
            "for": request.META.get("HTTP_X_FORWARDED_FOR"),
            "user": request.user.get_username(),
        }
    )

"""The project's own views. `/control/` does what an administrator does in a shell."""

import json
from datetime import datetime

from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core import signing
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt


def whoami(request):
    """Reports who the visitor is for Django."""
    user = request.user
    return JsonResponse({"id": str(user.pk) if user.is_authenticated else None, "name": user.get_username() or None})


@csrf_exempt
def remember(request):
    """Puts the values of a JSON object into the session; `_expiry` is how many seconds the session has left."""
    values = json.loads(request.body)
    if "_expiry" in values:
        request.session.set_expiry(values.pop("_expiry"))
    if values.pop("_moment", False):
        request.session["moment"] = datetime(2026, 1, 1)
    request.session.update(values)
    return JsonResponse({})


@csrf_exempt
def forget(request):
    """Takes everything out of the session, the login among it, as `SessionStore.flush` does."""
    request.session.flush()
    return JsonResponse({})


@csrf_exempt
def control(request, what):
    return JsonResponse(_CONTROLS[what](**json.loads(request.body)) or {})


def create_user(name, password, is_staff=False, is_active=True, is_superuser=False):
    model = get_user_model()
    make = model.objects.create_superuser if is_superuser else model.objects.create_user
    user = make(**{model.USERNAME_FIELD: name}, password=password)
    if not is_superuser:
        user.is_staff, user.is_active = is_staff, is_active
        user.save()
    return {"id": str(user.pk)}


def update_user(name, **fields):
    user = get_user_model().objects.get_by_natural_key(name)
    for field, value in fields.items():
        setattr(user, field, value)
    user.save()


def delete_user(name):
    get_user_model().objects.get_by_natural_key(name).delete()


def session_data(key, data=None):
    """Returns the column of a session's row, and replaces its text."""
    row = Session.objects.get(session_key=key)
    before = row.session_data
    if data is not None:
        row.session_data = data
        row.save()
    return {"data": before}


def delete_session(key):
    Session.objects.get(session_key=key).delete()


def sign(value, salt):
    """Signs a value as a session is signed, which need not be one."""
    return {"data": signing.dumps(value, salt=salt, compress=True)}


_CONTROLS = {
    function.__name__: function for function in (create_user, update_user, delete_user, session_data, delete_session, sign)
}

"""The paths of the project."""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("favicon.ico", views.icon),
    path("page/", views.page),
    path("upload/", views.upload),
    path("download/", views.download),
    path("events/", views.events),
    path("seen/", views.seen),
]

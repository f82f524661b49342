"""Django's own views for login, logout and passwords, and a few of the project's."""

from django.contrib.auth import views as auth
from django.urls import path

import views

urlpatterns = [
    path("login/", auth.LoginView.as_view()),
    path("logout/", auth.LogoutView.as_view()),
    path("password/", auth.PasswordChangeView.as_view(success_url="/whoami/")),
    path("whoami/", views.whoami),
    path("remember/", views.remember),
    path("forget/", views.forget),
    path("control/<slug:what>/", views.control),
]

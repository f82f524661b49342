"""User models that share no name with `auth_user`: table, key and columns."""

import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class Manager(BaseUserManager):
    def create_user(self, email, password, **fields):
        user = self.model(email=email, **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email, password):
        return self.create_user(email, password, is_staff=True)


class Member(AbstractBaseUser):
    """Its key is a UUID; its table is a word of SQL's own, and its columns have upper-case letters."""

    ref = models.UUIDField(primary_key=True, default=uuid.uuid4, db_column="memberRef")
    email = models.CharField(max_length=200, unique=True, db_column="loginName")
    password = models.CharField(max_length=128, db_column="passwordHash")
    is_active = models.BooleanField(default=True, db_column="isEnabled")
    is_staff = models.BooleanField(default=False, db_column="isCrew")

    USERNAME_FIELD = "email"
    objects = Manager()

    class Meta:
        db_table = "user"


class Guest(AbstractBaseUser):
    """Its key is a text, and it lacks the columns for staff and inactive users."""

    code = models.CharField(primary_key=True, max_length=40)
    email = models.CharField(max_length=200, unique=True)

    USERNAME_FIELD = "email"
    objects = Manager()

    class Meta:
        db_table = "guests"

    def save(self, *arguments, **options):
        self.code = self.code or f"guest/{self.email}"
        super().save(*arguments, **options)

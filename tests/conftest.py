"""What holds for all tests."""

from hypothesis import settings

# A busy machine is no error: no test fails for the time that it takes.
settings.register_profile("ebbtide", deadline=None)
settings.load_profile("ebbtide")

"""Settings of all tests."""

from hypothesis import settings

# A machine that others share is slow at times; a test that hangs meets pytest-timeout.
settings.register_profile("plgolf", deadline=None)
settings.load_profile("plgolf")

"""Property tests measure no time: on a busy machine any example can take longer than the 200 ms of the default."""

from hypothesis import settings

settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")

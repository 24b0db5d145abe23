#!/bin/sh
# `limner` in the image, where the code is not installed but lies in /app.
exec /opt/venv/bin/python -m serve_app.cli "$@"

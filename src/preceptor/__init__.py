"""Preceptor: teach, assess, distill. Teachers trained, measured and chosen for what their students become."""

__version__ = "0.1.0"

"""In everybody's loop: what a student learns from a teacher, for trainers of others.

A room for each trainer, thin, and whatever they share in `Distillation`. Its package is needed where it is used, and
where nothing of it is imported, nothing of it is loaded.
"""

from preceptor.integrations.distillation import Distillation

__all__ = ["Distillation"]

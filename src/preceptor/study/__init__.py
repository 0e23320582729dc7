"""Grids of runs, their statistics and reports: quickstart, studies, generations, tuning.

Nothing is imported here, so that `preceptor.study.recipe` stays free of torch.
"""

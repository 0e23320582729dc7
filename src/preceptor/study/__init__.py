"""Many runs, their statistics and reports: teachers assessed, grid, generations.

Nothing is imported here, so that `preceptor.study.recipe` stays free of torch.
"""

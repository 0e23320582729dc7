"""Many runs, their statistics and reports: assessment, grid, generations, prediction.

Nothing is imported here, so that `preceptor.study.recipe` stays free of torch.
"""

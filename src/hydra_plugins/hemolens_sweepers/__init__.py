"""Hydra's sweepers, made for trainings: a grid, and a search by Optuna.

Hydra looks for plugins in this namespace alone and imports all of them at each start, so this stays light.
"""

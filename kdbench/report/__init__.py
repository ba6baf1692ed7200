"""Results as tables and JSON, from the files of a study alone: no torch, no Optuna, no database."""

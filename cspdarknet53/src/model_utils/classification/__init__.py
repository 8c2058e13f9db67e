# Shared file: source utils/model_utils/classification/__init__.py; copy with: python scripts/sync_model_utils.py --write
"""What the image classifiers of the zoo have in common: data, loss, evaluation, inference on pictures."""

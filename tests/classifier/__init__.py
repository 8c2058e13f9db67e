"""What the tests of the image classifiers share: each folder's own tests call it with the folder's values."""

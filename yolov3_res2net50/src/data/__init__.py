"""From a COCO data set to batches: annotations, pictures, augmentation, target rows, and contact sheets of them."""

"""From decoded maps to detections: boxes, non-maximum suppression, COCO's measures, prediction, drawing, videos."""

"""Pictures of images, detections, attention and chosen tokens; no display is needed."""

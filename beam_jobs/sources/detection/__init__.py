"""Datasets of objects in images: boxes, polygons and keypoints, in the formats of COCO, YOLO and Pascal VOC."""

__all__: list[str] = []

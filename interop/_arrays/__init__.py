"""The hand-over of arrays: reading one, ordering the streams, making the other, and keeping the memory alive."""

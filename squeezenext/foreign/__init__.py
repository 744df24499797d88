"""Weights in others' formats: Deep Compression's, ncnn's, Caffe's, PyTorch's."""
